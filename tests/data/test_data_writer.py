"""write_folder and save_upload: whole or not at all, and never over somebody else's files."""

import errno
import json
import os
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from spf import files
from spf.data.check import check_folder
from spf.data.metadata import METADATA
from spf.data.records import read_folder
from spf.data.writer import UPLOAD_SIDE, save_upload, write_folder
from spf.errors import DataError


@pytest.fixture
def items(picture):
    return [(picture(index), f"a person, scene {index}", "a winter hat") for index in range(8)]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_written_is_read(tmp_path, items):
    assert write_folder(tmp_path / "new" / "set", items) == 8
    records = read_folder(tmp_path / "new" / "set")
    assert [(record.base_text, record.target_text) for record in records] == [item[1:] for item in items]
    assert Image.open(records[5].path).tobytes() == items[5][0].tobytes()
    assert check_folder(tmp_path / "new" / "set").warnings == ()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["set"]


def test_the_same_items_are_the_same_bytes(tmp_path, items):
    write_folder(tmp_path / "a", items)
    for image, _, _ in items:
        image.info.update(dpi=(72, 72), icc_profile=b"profile", parameters="secret", exif=b"Exif\0\0", transparency=3)
    write_folder(tmp_path / "b", items)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_the_metadata_is_readable(tmp_path, picture):
    base = "une façade, 帽子"
    write_folder(tmp_path / "set", [(picture(), base, 'a "winter" hat')])
    line = (tmp_path / "set" / METADATA).read_text(encoding="utf-8")
    assert base in line and line.endswith("}\n")
    assert json.loads(line) == {"file_name": "00000.png", "base_text": base, "target_text": 'a "winter" hat'}


def test_an_empty_folder_and_an_own_one_are_replaced(tmp_path, items):
    folder = tmp_path / "set"
    folder.mkdir()
    write_folder(folder, items)
    write_folder(folder, items[:3])
    assert sorted(contents(folder)) == ["00000.png", "00001.png", "00002.png", METADATA]
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize(
    "names", [["notes.txt"], [METADATA, "holiday.png"], ["00000.png"], [METADATA, "sub/00000.png"]])
def test_other_peoples_files_are_not_replaced(tmp_path, items, names):
    folder = tmp_path / "set"
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("mine")
    before = contents(folder)
    with pytest.raises(DataError, match="choose another folder"):
        write_folder(folder, items)
    assert contents(folder) == before and list(tmp_path.iterdir()) == [folder]


def test_a_file_in_the_way(tmp_path, items):
    (tmp_path / "set").write_text("mine")
    with pytest.raises(DataError, match="is a file"):
        write_folder(tmp_path / "set", items)
    assert (tmp_path / "set").read_text() == "mine"


def failing(items, error):
    yield from items[:3]
    raise error


@pytest.mark.parametrize("error", [RuntimeError("drawing failed"), KeyboardInterrupt()])
@pytest.mark.parametrize("there_before", [False, True])
def test_nothing_half_written(tmp_path, items, error, there_before):
    if there_before:
        write_folder(tmp_path / "set", items[:2])
    before = contents(tmp_path)
    with pytest.raises(type(error)):
        write_folder(tmp_path / "set", failing(items, error))
    assert contents(tmp_path) == before and len(list(tmp_path.iterdir())) == there_before


@pytest.mark.parametrize("call", ["PIL.Image.Image.save", "pathlib.Path.write_text", "os.rename", "pathlib.Path.mkdir"])
def test_a_full_disk(tmp_path, items, monkeypatch, call):
    write_folder(tmp_path / "set", items[:2])
    before = contents(tmp_path)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(call, full)
        patched.setattr(files, "_exchange", lambda one, other: False)  # which does without os.rename
        with pytest.raises(DataError, match=r"set cannot be written \(No space left on device\)"):
            write_folder(tmp_path / "set", items)
    assert contents(tmp_path) == before


def test_the_old_folder_comes_back_if_the_new_one_cannot_take_its_place(tmp_path, items, monkeypatch):
    write_folder(tmp_path / "set", items[:2])
    before, rename = contents(tmp_path), os.rename

    def second_fails(source, target):
        if str(source).endswith(".partial") and "-old" not in str(source):
            raise OSError(errno.EIO, "Input/output error")
        rename(source, target)

    monkeypatch.setattr("os.rename", second_fails)
    monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    with pytest.raises(DataError):
        write_folder(tmp_path / "set", items)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "base, target, word", [("", "a hat", "base_text"), ("a", "\0", "NUL"), ("a hat", "A hat.", "equals")])
def test_texts_that_could_not_be_read_back(tmp_path, picture, base, target, word):
    with pytest.raises(DataError, match=rf"picture 2: .*{word}"):
        write_folder(tmp_path / "set", [(picture(), "a person", "a hat"), (picture(), base, target)])
    assert not list(tmp_path.iterdir())


def test_no_items(tmp_path):
    with pytest.raises(DataError, match="none to write"):
        write_folder(tmp_path / "set", [])


def test_an_upload_of_files_and_pictures(tmp_path, picture):
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "where I live"
    picture(1, (3000, 1500)).save(tmp_path / "wide name.JPG", exif=exif)
    picture(2).save(tmp_path / "no-suffix", format="WEBP")
    uploads = [tmp_path / "wide name.JPG", str(tmp_path / "no-suffix"), Image.new("LA", (64, 64))]
    report = save_upload(uploads, "a person", "a winter hat", tmp_path / "set")
    assert report.ok and report.pictures == 3 and report.targets == {"a winter hat": 3}
    assert report.largest == (UPLOAD_SIDE, 2 * UPLOAD_SIDE)
    assert all(b"where I live" not in content for content in contents(tmp_path / "set").values())
    stored = Image.open(tmp_path / "set" / "00000.png")
    assert isinstance(stored, PngImagePlugin.PngImageFile) and not stored.getexif()


def test_an_uploaded_picture_object_is_left_alone(tmp_path, picture):
    image = picture(1)
    image.info["comment"] = "mine"
    save_upload([image], "a person", "a winter hat", tmp_path / "set")
    assert image.tobytes() == picture(1).tobytes() and image.info == {"comment": "mine"}


def test_an_upload_with_a_base_text_each(tmp_path, picture):
    save_upload([picture(1), picture(2)], ["a man", "a woman"], "a winter hat", tmp_path / "set")
    assert [record.base_text for record in read_folder(tmp_path / "set")] == ["a man", "a woman"]


def test_an_upload_names_everything_that_is_wrong(tmp_path, picture):
    (tmp_path / "text.png").write_text("no picture")
    uploads = [picture(1), tmp_path / "text.png", picture(2, (20, 20)), tmp_path / "gone.png", picture(3)]
    with pytest.raises(DataError) as caught:
        save_upload(uploads, ["a man", "a man", "a man", "a man", ""], "a winter hat", tmp_path / "set")
    assert [line.split(":")[0] for line in caught.value.problems] == ["text.png", "picture 3", "gone.png", "picture 5"]
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    "texts, given, word",
    [("a man", 0, "none were given"), (["a", "b"], 3, "2 texts for 3 pictures"), ([], 1, "0 texts")])
def test_an_upload_that_does_not_add_up(tmp_path, picture, texts, given, word):
    with pytest.raises(DataError, match=word):
        save_upload([picture(index) for index in range(given)], texts, "a winter hat", tmp_path / "set")
    assert not (tmp_path / "set").exists()
