"""metadata.jsonl, caption files and kohya folders: the same pictures and texts are the same records."""

import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from spf.config import train_config
from spf.data.captions import Reading
from spf.data.check import check_folder
from spf.data.layouts import MAX_CAPTION_BYTES, read_layout
from spf.data.records import Record, read_folder, read_training_set
from spf.errors import DataError

HAT = Reading(("a winter hat",))
CAPTIONS = ("a man with red hair and a winter hat", "a winter hat, a woman, smiling", "a person wearing a winter hat")
BASES = ("a man with red hair", "a woman, smiling", "a person")


@pytest.fixture
def captioned(tmp_path, picture):
    """captioned(*captions, into="set"): pictures 0.png, 1.png, ... with a caption each; None stands for no file."""

    def make(*captions: str | bytes | None, into: str = "set", suffix: str = ".txt") -> Path:
        root = tmp_path / into
        root.mkdir(parents=True)
        for index, caption in enumerate(captions):
            picture(index).save(root / f"{index}.png")
            if caption is not None:
                (root / f"{index}{suffix}").write_bytes(caption.encode() if isinstance(caption, str) else caption)
        return root

    return make


def texts(records: list[Record]) -> list[tuple[str, str, str]]:
    return [(record.path.name, record.base_text, record.target_text) for record in records]


EXPECTED = [(f"{index}.png", base, "a winter hat") for index, base in enumerate(BASES)]


@pytest.mark.parametrize("suffix", [".txt", ".caption"])
def test_caption_files(captioned, suffix):
    folder = captioned(*CAPTIONS, suffix=suffix)
    assert texts(read_folder(folder, reading=HAT)) == EXPECTED
    assert check_folder(folder, reading=HAT).layout == "captions"


def test_masks_are_no_pictures_to_train_on(captioned, picture):
    folder = captioned(*CAPTIONS)
    (folder / "masks").mkdir()
    picture(9).save(folder / "masks" / "0.png")
    report = check_folder(folder, reading=HAT)
    assert report.ok and report.pictures == 3 and [warning.kind for warning in report.warnings] == ["few-pictures"]


def test_one_caption_per_line_of_the_metadata(picture_set):
    rows = [json.dumps({"file_name": f"{index}.png", "text": caption}) for index, caption in enumerate(CAPTIONS)]
    folder = picture_set(count=3)
    (folder / "metadata.jsonl").write_text("\n".join(rows))
    assert texts(read_folder(folder, reading=HAT)) == EXPECTED


def test_two_columns_win_over_one_caption(picture_set, row):
    folder = picture_set(row("0.png", text="something else, a winter hat"), count=3)
    assert read_folder(folder, reading=HAT)[-1].base_text == "a person, at sea"


def test_kohya_folders_repeat_and_name_the_target(captioned, tmp_path):
    captioned(*CAPTIONS[:2], into="set/3_a winter_hat")
    captioned("a man in a turban", into="set/1_a_turban")
    report = check_folder(tmp_path / "set")
    assert (report.layout, report.pictures, report.shown_per_epoch) == ("kohya", 3, 7)
    assert report.targets == {"a turban": 1, "a winter hat": 2} and "shown 7 times" in report.to_text()
    records = read_folder(tmp_path / "set")
    assert texts(records) == [("0.png", "a man", "a turban")] + [row for row in EXPECTED[:2] for _ in range(3)]


def test_kohya_folders_with_one_text_for_all(captioned, tmp_path):
    captioned(None, None, into="set/2_a hat")
    assert texts(read_folder(tmp_path / "set", reading=Reading(base_text="a person"))) == [
        (name, "a person", "a hat") for name in ("0.png", "0.png", "1.png", "1.png")]


def test_repeats_in_the_metadata(picture_set, row):
    folder = picture_set(row("0.png", repeats=3, base_text="once more"), count=1)
    assert len(read_folder(folder)) == 4
    for bad in (0, -1, 1.5, "2", True, 10**9, None):
        problems = check_folder(picture_set(row("0.png", repeats=bad, base_text="once more"), count=1)).problems
        assert [problem.kind for problem in problems] == ["bad-repeats"]


def test_pictures_alone_with_both_texts_given(captioned):
    folder = captioned(None, None)
    reading = Reading(("a winter hat",), "a person")
    assert texts(read_folder(folder, reading=reading)) == [(f"{index}.png", "a person", "a winter hat") for index in range(2)]
    assert [problem.kind for problem in check_folder(folder, reading=HAT).problems] == ["missing-metadata"]


def test_an_empty_caption_and_one_that_is_only_the_target(captioned):
    folder = captioned("", "A winter hat.", CAPTIONS[0])
    assert [problem.kind for problem in check_folder(folder, reading=HAT).problems] == [
        "missing-caption", "caption-only-target"]
    records = read_folder(folder, reading=Reading(HAT.target_texts, "a person"))
    assert [record.base_text for record in records] == ["a person", "a person", BASES[0]]


@pytest.mark.parametrize("caption, reading, kind", [
    ("a man", HAT, "caption-without-target"),
    ("a man with a winter hatch", HAT, "caption-without-target"),
    (CAPTIONS[0], Reading(), "missing-target"),
    (None, Reading(), "missing-target"),
    (None, HAT, "missing-caption"),
    (" \n ", HAT, "missing-caption"),
    (b"a man, a winter hat \xff", HAT, "not-utf8"),
    ("a winter hat, " + "a" * 3000, HAT, "text-too-long"),
    ("a winter hat" + " " * MAX_CAPTION_BYTES, HAT, "bad-caption"),
    ("a winter hat, a\0man", HAT, "bad-characters"),
    ("a winter hat, \u200b!", HAT, "empty-text"),
])
def test_a_bad_caption_is_named_with_its_picture(captioned, caption, reading, kind):
    folder = captioned("a man, a winter hat", caption)
    found = [problem for problem in check_folder(folder, reading=reading).problems if problem.file == "1.png"]
    assert [problem.kind for problem in found] == [kind] and found[0].message.isprintable()
    with pytest.raises(DataError, match="1.png"):
        read_folder(folder, reading=reading)


def test_without_a_target_a_missing_caption_is_not_called_one(captioned):
    told = {problem.file: problem.message for problem in check_folder(captioned("a man", None)).problems}
    assert told["0.png"].startswith("has one caption") and told["1.png"].startswith("has no caption")


def test_caption_files_that_are_traps(captioned, tmp_path):
    (tmp_path / "secret.txt").write_text("a password, a winter hat")
    folder = captioned(*[None] * 5, CAPTIONS[0])
    (folder / "0.txt").symlink_to(tmp_path / "secret.txt")
    os.mkfifo(folder / "1.txt")
    (folder / "2.txt").symlink_to("2.txt")
    (folder / "3.txt").mkdir()
    (folder / "4.txt").write_text(CAPTIONS[0])
    (folder / "4.caption").write_text(CAPTIONS[1])
    report = check_folder(folder, reading=HAT)
    assert [(problem.file, problem.kind) for problem in report.problems] == [
        ("0.png", "escapes-folder"), ("1.png", "bad-caption"), ("2.png", "unreadable"), ("3.png", "missing-caption"),
        ("4.png", "two-captions")]
    assert "password" not in report.to_text()


def test_captions_without_pictures_and_pictures_beside_the_folders(captioned, tmp_path, picture):
    folder = captioned(*CAPTIONS)
    (folder / "notes.txt").write_text("mine")
    warnings = check_folder(folder, reading=HAT).warnings
    assert [(warning.file, warning.kind) for warning in warnings[:1]] == [("notes.txt", "caption-without-picture")]
    captioned(*CAPTIONS, into="kohya/1_a winter hat")
    picture(9).save(tmp_path / "kohya" / "beside.png")
    assert ("beside.png", "unlisted") in [(warning.file, warning.kind) for warning in check_folder(tmp_path / "kohya").warnings]


def test_captions_beside_metadata_are_not_read_and_that_is_said(picture_set):
    folder = picture_set()
    (folder / "0.txt").write_text("a horse")
    assert read_folder(folder)[0].base_text == "a person, scene 0"
    assert [warning.kind for warning in check_folder(folder).warnings] == ["unread-captions"]


@pytest.mark.parametrize("repeats", ["0", "1001", "999999"])
def test_repeats_of_a_folder_that_cannot_be(captioned, tmp_path, repeats):
    captioned(CAPTIONS[0], into=f"set/{repeats}_a winter hat")
    assert [problem.kind for problem in check_folder(tmp_path / "set").problems] == ["bad-repeats"]


def test_folders_that_link_in_circles_are_walked_once(captioned):
    folder = captioned(*CAPTIONS)
    (folder / "loop").symlink_to(folder)
    (folder / "5_loop").symlink_to(folder)
    assert texts(read_folder(folder, reading=HAT)) == EXPECTED


def test_a_training_run_reads_what_its_settings_say(captioned):
    folder = captioned("a winter hat", *CAPTIONS[1:])
    config = train_config("quick", {"data": str(folder), "name": "hat", "target_texts": ["a winter hat"], "base_text": "a  man"})
    assert [record.base_text for record in read_training_set(config)] == ["a man", *BASES[1:]]


@given(st.lists(st.binary(max_size=30), min_size=1, max_size=3), st.booleans())
def test_no_caption_breaks_the_check(tmp_path_factory, captions, kohya):
    root = tmp_path_factory.mktemp("captions")
    folder = root / "2_a hat" if kohya else root
    folder.mkdir(exist_ok=True)
    for index, caption in enumerate(captions):
        Image.new("RGB", (64, 64), (index, 0, 0)).save(folder / f"{index}.png")
        (folder / f"{index}.txt").write_bytes(caption)
    report = check_folder(root, reading=HAT)
    report.to_text().encode()
    assert len(read_layout(root, HAT).rows) == len(captions) == report.pictures + len({p.file for p in report.problems})
    shutil.rmtree(root)
