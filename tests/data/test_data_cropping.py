"""Squares about a face, about the middle where none is found, the report of which, and the preview."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spf.data.cropping import SHOWN, crop_records, cut_of, face_finder, windows
from spf.data.records import read_folder
from spf.data.writer import records_to_copy, write_folder
from spf.errors import DataError
from spf.pocket.recogniser import Recogniser

NOBODY = (90, 120, 160)


@pytest.fixture(scope="module")
def find():
    return face_finder(Recogniser.from_folder())


@pytest.fixture
def portrait(picture_folder) -> Image.Image:
    return Image.open(read_folder(picture_folder)[0].path).convert("RGB").resize((128, 128))


def beside(portrait: Image.Image, size: tuple[int, int], corner: tuple[int, int]) -> Image.Image:
    canvas = Image.new("RGB", size, NOBODY)
    canvas.paste(portrait, corner)
    return canvas


@pytest.mark.parametrize("size, corner", [((384, 128), (0, 0)), ((384, 128), (256, 0)), ((128, 320), (0, 192)),
                                          ((384, 128), (128, 0)), ((240, 128), (70, 0))])
def test_a_face_that_is_not_in_the_middle_is_found(portrait, find, size, corner):
    cut = cut_of(beside(portrait, size, corner), "center", find)
    assert cut.about == "face"
    assert max(abs(ours - theirs) for ours, theirs in zip(cut.box, corner, strict=False)) <= 24, "less than a fifth off"
    assert cut.box[2] - cut.box[0] == cut.box[3] - cut.box[1] == 128


@pytest.mark.parametrize("image", [
    Image.new("RGB", (300, 128), NOBODY), Image.new("RGB", (128, 128)),
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (128, 256, 3), dtype=np.uint8))])
def test_where_no_face_is_found_the_middle_is_used_and_said(find, image):
    cut = cut_of(image, "center", find)
    assert (cut.about, cut.box) == ("middle", cut_of(image, "center", None).box)


@pytest.mark.parametrize("face, box", [
    ((0, 0, 20, 20), (0, 0, 100, 100)), ((280, 80, 300, 100), (200, 0, 300, 100)), ((140, 10, 180, 60), (110, 0, 210, 100))])
def test_the_square_stays_inside_the_picture(face, box):
    assert cut_of(Image.new("RGB", (300, 100)), "center", lambda image: face).box == box


def test_windows_cover_the_longer_side():
    assert windows((100, 100)) == [(0, 0, 100, 100)]
    wide, tall = windows((300, 100)), windows((100, 300))
    assert wide[0] == (0, 0, 100, 100) and wide[-1] == (200, 0, 300, 100)
    assert tall == [(top, left, bottom, right) for left, top, right, bottom in wide]


@pytest.fixture
def mixed(portrait, tmp_path):
    """Two pictures: a face at the right edge, and none."""
    write_folder(tmp_path / "mixed", [(beside(portrait, (384, 128), (256, 0)), "a person", "a winter hat"),
                                      (Image.new("RGB", (256, 128), NOBODY), "a wall", "a winter hat")])
    return tmp_path / "mixed"


def crop_folder(folder, out, *arguments, **keywords):
    return crop_records(records_to_copy(folder, out), out, *arguments, **keywords)


def test_a_folder_is_cut_and_told(mixed, find, tmp_path):
    done = crop_folder(mixed, tmp_path / "out", "center", find, preview=tmp_path / "sheet.png")
    assert (done["pictures"], done["face"], done["middle"]) == (2, 1, 1)
    assert done["files"][1] == {"file": "00001.png", "box": [64, 0, 192, 128], "about": "middle"}
    records = read_folder(tmp_path / "out")
    assert [record.base_text for record in records] == ["a person", "a wall"]
    box = done["files"][0]["box"]
    whole, square = Image.open(mixed / "00000.png"), Image.open(records[0].path)
    assert square.size == (128, 128) and np.array_equal(np.asarray(square), np.asarray(whole.crop(box)))
    sheet = Image.open(tmp_path / "sheet.png")
    assert sheet.size == (2 * SHOWN, SHOWN)
    colours = {sheet.getpixel((x, y)) for x in range(sheet.width) for y in range(sheet.height)}
    assert {(0, 255, 0), (255, 165, 0)} <= colours, "one square of each kind is drawn in"


def test_the_verb(mixed, command_line, tmp_path):
    status, out, _ = command_line("dataset", "crop", str(mixed), "--out", str(tmp_path / "out"), "--device", "cpu", "--json")
    assert status == 0 and json.loads(out)["face"] == 1
    status, out, _ = command_line("dataset", "crop", str(mixed), "--out", str(tmp_path / "out"), "--about", "center")
    assert status == 0 and "0 cut about the face, 2 about the middle" in out
    status, out, err = command_line("dataset", "crop", str(mixed), "--out", str(tmp_path / "new"), "--about", "cat")
    assert (status, out) == (2, "") and err.startswith("error: --about: 'cat'") and not (tmp_path / "new").exists()


def test_bad_folders_write_nothing(mixed, tmp_path):
    (mixed / "00001.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="00001.png"):
        crop_folder(mixed, tmp_path / "out", "center", None)
    assert not (tmp_path / "out").exists()


def test_a_preview_that_cannot_be_written_leaves_no_squares(mixed, tmp_path, monkeypatch):
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError, match="--preview: /proc/gone.png cannot be written"):
        crop_folder(mixed, tmp_path / "out", "center", None, preview=Path("/proc/gone.png"))
    save = Image.Image.save

    def full(image, path, **keywords):
        if ".sheet.png" in str(path):
            Path(path).write_bytes(b"half")
            raise OSError(28, "No space left on device")
        save(image, path, **keywords)

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(DataError, match="No space left"):
        crop_folder(mixed, tmp_path / "out", "center", None, preview=tmp_path / "sheet.png")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("inside", ["mixed", "out"])
def test_a_preview_is_no_picture_of_a_set(mixed, command_line, tmp_path, inside):
    before = sorted(tmp_path.rglob("*"))
    status, out, err = command_line("dataset", "crop", str(mixed), "--out", str(tmp_path / "out"), "--about", "center",
                                    "--preview", str(tmp_path / inside / "sheet.png"))
    assert (status, out) == (2, "") and f"lies in {tmp_path / inside}" in err and sorted(tmp_path.rglob("*")) == before


def test_the_pictures_that_are_cut_are_never_replaced(mixed):
    before = {path.name: path.read_bytes() for path in mixed.iterdir()}
    with pytest.raises(DataError, match="--out: .* is where the pictures come from"):
        crop_folder(mixed, mixed / ".." / mixed.name, "center", None)
    assert {path.name: path.read_bytes() for path in mixed.iterdir()} == before
