"""Caption files beside pictures: only where there are none, with the target said, all or nothing; and the verb."""

import pytest
from PIL import Image

from spf.data.captioning import caption_folder, with_targets
from spf.data.captions import Reading
from spf.data.check import check_folder
from spf.errors import DataError


def by_colour(pictures) -> list[str]:
    return ["a red wall" if picture.getpixel((5, 5))[0] > 200 else "a person\nwith  a hat." for picture in pictures]


@pytest.fixture
def folder(tmp_path):
    """Three pictures; the last has a caption. A mask is no picture to caption."""
    made = tmp_path / "set"
    (made / "masks").mkdir(parents=True)
    for name, colour in {"a.png": "red", "b.jpg": "navy", "c.png": "green", "masks/a.png": "white"}.items():
        Image.new("RGB", (80, 90), colour).save(made / name)
    (made / "c.caption").write_text("mine")
    return made


def texts(folder) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(folder.rglob("*")) if path.suffix in (".txt", ".caption")}


def test_only_pictures_without_a_caption_get_one(folder):
    done = caption_folder(folder, by_colour)
    assert (done["pictures"], done["written"]) == (3, 2)
    assert texts(folder) == {"a.txt": "a red wall\n", "b.txt": "a person with a hat\n", "c.caption": "mine"}
    assert caption_folder(folder, lambda pictures: pytest.fail("asked"))["written"] == 0


def test_replacing_writes_into_the_file_that_is_there(folder):
    caption_folder(folder, by_colour, replace=True)
    assert texts(folder)["c.caption"] == "a person with a hat\n" and "c.txt" not in texts(folder)


def test_the_target_is_said_and_the_set_can_then_be_checked(folder):
    (folder / "c.caption").unlink()
    caption_folder(folder, by_colour, ["a winter hat"])
    report = check_folder(folder, reading=Reading(("a winter hat",)))
    assert report.ok and report.targets == {"a winter hat": 3}


@pytest.mark.parametrize("text, expected", [
    ("a man.", "a man, a winter hat, a beard"), ("a man in A Winter  Hat", "a man in A Winter Hat, a beard"),
    ("", "a winter hat, a beard")])
def test_phrases_that_a_caption_does_not_say_are_added(text, expected):
    assert with_targets(text, ["a winter hat", "a beard"]) == expected


def test_bad_folders_write_nothing(folder, picture_folder, tmp_path):
    with pytest.raises(DataError, match="metadata.jsonl holds the texts"):
        caption_folder(picture_folder, by_colour)
    with pytest.raises(DataError, match="holds no PNG, JPEG or WebP pictures"):
        caption_folder(tmp_path / "none", by_colour)
    with pytest.raises(DataError, match="a.png: the captioner says nothing"):
        caption_folder(folder, lambda pictures: [""] * len(pictures))
    (folder / "b.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match="b.jpg"):
        caption_folder(folder, by_colour)
    assert texts(folder) == {"c.caption": "mine"}


def test_the_verb_names_what_is_missing(folder, command_line, tmp_path):
    status, out, err = command_line("dataset", "caption", str(folder), "--captioner", str(tmp_path / "blip"), "--device", "cpu")
    assert (status, out) == (2, "") and err.startswith("error: --captioner: ") and "huggingface.co/Salesforce" in err
    assert texts(folder) == {"c.caption": "mine"}
