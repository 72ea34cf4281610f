"""Editing in place: every sequence of changes can be taken back step by step, and a crash loses nothing."""

import errno
import json
import os
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from spf.data import edit
from spf.data.captions import Reading
from spf.data.check import check_folder
from spf.data.layouts import read_layout
from spf.data.metadata import METADATA
from spf.data.records import read_folder
from spf.errors import DataError

HAT = Reading(("a winter hat",))


def listed(folder, reading=Reading()) -> list[tuple[str, str, str]]:
    return [(row.file_name, row.base_text, row.target_text) for row in read_layout(folder, reading).rows]


def set_texts(folder, row, base_text, target_text, reading=Reading()):
    edit.set_all_texts(folder, {row: (base_text, target_text)}, reading)


def test_texts_of_one_picture(picture_set):
    folder = picture_set()
    before = listed(folder)
    set_texts(folder, read_layout(folder).rows[3], " a  man ", "a turban")
    assert listed(folder) == [*before[:3], ("3.png", "a man", "a turban"), *before[4:]]
    assert check_folder(folder).ok and [step.what for step in edit.steps(folder)] == ["texts of 3.png"]
    assert edit.undo(folder) == ["texts of 3.png"] and listed(folder) == before and edit.steps(folder) == []


def test_further_columns_and_other_lines_stay_as_they_are(picture_set, row):
    folder = picture_set(row("0.png", author="me", repeats=2, base_text="again"), "{broken", "", count=2)
    content = (folder / METADATA).read_text().split("\n")
    set_texts(folder, read_layout(folder).rows[2], "a man", "a hat")
    after = (folder / METADATA).read_text().split("\n")
    assert after[:2] == content[:2] and after[3] == "{broken"
    assert json.loads(after[2]) == row("0.png", author="me", repeats=2, base_text="a man", target_text="a hat")


def test_removing_restoring_and_undoing(picture_set):
    folder = picture_set()
    before = listed(folder)
    rows = read_layout(folder).rows
    edit.remove(folder, [rows[1], rows[5]])
    assert listed(folder) == [row for row in before if row[0] not in ("1.png", "5.png")]
    assert (folder / "1.png").exists()
    first, second = edit.removed(folder)
    edit.restore(folder, second)
    assert listed(folder)[-1] == before[5] and edit.removed(folder) == [first]
    with pytest.raises(DataError, match="listed already"):
        edit.restore(folder, second)
    assert edit.undo(folder, 10) == ["restored 5.png", "removed 2 pictures"] and listed(folder) == before
    assert edit.undo(folder) == [] and edit.undo(folder, 0) == [] and edit.removed(folder) == []


def test_a_picture_whose_file_is_gone_cannot_come_back(picture_set):
    folder = picture_set()
    edit.remove(folder, read_layout(folder).rows[:1])
    (folder / "0.png").unlink()
    assert edit.removed(folder) == []


def test_caption_files_become_metadata_and_come_back_by_undo(tmp_path, picture):
    folder = tmp_path / "set"
    folder.mkdir()
    for index, caption in enumerate(("a man, a winter hat", "a woman in a winter hat", "no target here")):
        picture(index).save(folder / f"{index}.png")
        (folder / f"{index}.txt").write_text(caption)
    before = listed(folder, HAT)
    set_texts(folder, read_layout(folder, HAT).rows[2], "a child", "a winter hat", HAT)
    assert listed(folder) == [*before[:2], ("2.png", "a child", "a winter hat")]
    assert len(read_folder(folder)) == 3
    edit.undo(folder)
    assert not (folder / METADATA).exists() and listed(folder, HAT) == before


def test_a_picture_with_a_caption_file_can_be_removed_and_restored(tmp_path, picture):
    for index in range(3):
        picture(index).save(tmp_path / f"{index}.png")
        (tmp_path / f"{index}.txt").write_text("a man, a winter hat")
    edit.remove(tmp_path, read_layout(tmp_path, HAT).rows[:1], HAT)
    assert [name for name, _, _ in listed(tmp_path)] == ["1.png", "2.png"]
    edit.restore(tmp_path, *edit.removed(tmp_path))
    assert listed(tmp_path)[-1] == ("0.png", "a man", "a winter hat")


def test_metadata_in_another_encoding_is_left_alone(picture_set):
    folder = picture_set(b'{"file_name": "\xe9.png"}')
    before = (folder / METADATA).read_bytes()
    with pytest.raises(DataError, match="UTF-8"):
        edit.remove(folder, read_layout(folder).rows[:1])
    assert (folder / METADATA).read_bytes() == before and edit.steps(folder) == []


@pytest.mark.parametrize("base, target, words", [
    ("", "a hat", "'base_text' says nothing"), ("a man", " ,", "'target_text' says nothing"), ("a hat", "A hat.", "equals"),
    ("a\0", "a hat", "NUL"), ("a" * 3000, "a hat", "3,000"), ("\ud800", "a hat", "half a character")])
def test_unusable_texts_change_nothing(picture_set, base, target, words):
    folder = picture_set()
    before = (folder / METADATA).read_bytes()
    with pytest.raises(DataError, match=words):
        set_texts(folder, read_layout(folder).rows[0], base, target)
    assert (folder / METADATA).read_bytes() == before and edit.steps(folder) == []


def test_somebody_else_was_quicker(picture_set):
    folder = picture_set()
    rows = read_layout(folder).rows
    edit.remove(folder, rows[:1])
    with pytest.raises(DataError, match="changed meanwhile"):
        set_texts(folder, rows[4], "a man", "a hat")
    with pytest.raises(DataError, match="changed meanwhile"):
        edit.remove(folder, rows[:1])


def test_not_everything_can_be_removed(picture_set):
    folder = picture_set(count=2)
    with pytest.raises(DataError, match="no picture"):
        edit.remove(folder, read_layout(folder).rows)
    assert len(listed(folder)) == 2


@pytest.mark.parametrize("call", ["os.replace", "pathlib.Path.write_text", "spf.data.edit.sync"])
@pytest.mark.parametrize("after", [0, 1])
def test_a_full_disk_leaves_the_old_list_and_every_step(picture_set, monkeypatch, call, after):
    """It fails at the history, or after that at the metadata."""
    folder = picture_set()
    edit.remove(folder, read_layout(folder).rows[:1])
    before, calls = listed(folder), []
    module, name = call.rsplit(".", 1)
    original = {"os.replace": os.replace, "pathlib.Path.write_text": type(folder).write_text, "spf.data.edit.sync": edit.sync}

    def full(*args, **kwargs):
        calls.append(args)
        if len(calls) > after:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original[call](*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(call, full)
        with pytest.raises(DataError, match="No space left"):
            set_texts(folder, read_layout(folder).rows[0], "a man", "a hat")
    assert listed(folder) == before and not list(folder.rglob("*.partial"))
    edit.undo(folder, 10)
    assert len(listed(folder)) == 8


def test_a_damaged_history_is_left_out(picture_set):
    folder = picture_set()
    edit.remove(folder, read_layout(folder).rows[:1])
    for name, content in (("00000002.json", "{"), ("00000003.json", "[]"), ("00000004.json", '{"number": 1}')):
        (folder / edit.HISTORY / name).write_text(content)
    edit.remove(folder, read_layout(folder).rows[:1])
    assert len(edit.steps(folder)) == 2 and len(edit.undo(folder, 5)) == 2 and len(listed(folder)) == 8


def test_only_so_many_steps_are_kept(picture_set, monkeypatch):
    monkeypatch.setattr(edit, "STEPS_KEPT", 3)
    folder = picture_set()
    for index in range(6):
        set_texts(folder, read_layout(folder).rows[0], f"a man, number {index}", "a hat")
    assert len(edit.undo(folder, 100)) == 3 and listed(folder)[0][1] == "a man, number 2"


words = st.sampled_from(["a man", "a woman", "smiling", "été 帽子", 'a "quoted" \\ text', "line\u2028separator"])
actions = st.one_of(
    st.tuples(st.just("set"), st.integers(0, 9), words), st.tuples(st.just("remove"), st.integers(0, 9), words),
    st.tuples(st.just("restore"), st.integers(0, 9), words), st.tuples(st.just("undo"), st.integers(1, 3), words))


@settings(max_examples=40)  # every step is brought to the disk
@given(st.lists(actions, max_size=12), st.booleans())
def test_undo_is_the_way_back_through_any_changes(tmp_path_factory, sequence, captions):
    """A model of the history beside the folder: after every action both agree, and at the end everything is taken back."""
    folder = tmp_path_factory.mktemp("edit")
    for index in range(4):
        Image.new("RGB", (64, 64), (index, 0, 0)).save(folder / f"{index}.png")
        (folder / f"{index}.txt").write_text(f"a person {index}, a winter hat")
    if not captions:
        rows = read_layout(folder, HAT).rows
        lines = [json.dumps({"file_name": r.file_name, "base_text": r.base_text, "target_text": r.target_text}) for r in rows]
        (folder / METADATA).write_text("\n".join(lines))
    past, now = [], listed(folder, HAT)
    for kind, number, text in sequence:
        rows = read_layout(folder, HAT).rows
        row, gone = rows[number % len(rows)], edit.removed(folder)
        if kind == "undo":
            edit.undo(folder, number)
            for _ in range(min(number, len(past))):
                now = past.pop()
        elif kind == "set":
            past.append(now)
            set_texts(folder, row, text, "a winter hat", HAT)
            now = [(row.file_name, " ".join(text.split()), "a winter hat") if item[0] == row.file_name else item for item in now]
        elif kind == "remove" and len(rows) > 1:
            past.append(now)
            edit.remove(folder, [row], HAT)
            now = [item for item in now if item[0] != row.file_name]
        elif kind == "restore" and gone:
            past.append(now)
            edit.restore(folder, gone[number % len(gone)])
            now = listed(folder, HAT)
        assert listed(folder, HAT) == now and check_folder(folder, reading=HAT).ok
    edit.undo(folder, 100)
    assert listed(folder, HAT) == (past[0] if past else now)
    shutil.rmtree(folder)
