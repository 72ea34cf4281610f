"""near_pairs: the same picture scaled or saved again is found, other pictures of the same kind are not."""

import io
import random

import pytest
from PIL import Image

from spf.data.check import check_folder
from spf.data.likeness import likeness_of, near_pairs
from spf.pocket import renderer, world


@pytest.fixture(scope="module")
def portraits() -> list[Image.Image]:
    return [renderer.draw(world.sample_portrait(random.Random(f"likeness/{index}"), "winter-hat"), 128) for index in range(40)]


def jpeg(picture: Image.Image) -> Image.Image:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=60)
    return Image.open(stream)


def test_different_portraits_of_one_world_do_not_look_alike(portraits):
    assert near_pairs([likeness_of(portrait) for portrait in portraits]) == []


@pytest.mark.parametrize("change", [
    jpeg, lambda picture: picture.resize((97, 97)), lambda picture: picture.resize((300, 300)),
    lambda picture: picture.convert("RGBA")],
    ids=["saved as JPEG", "smaller", "larger", "RGBA"])
def test_the_same_portrait_again_does(portraits, change):
    for portrait in portraits[:10]:
        assert near_pairs([likeness_of(portraits[-1]), likeness_of(portrait), likeness_of(change(portrait))]) == [(2, 1)]


def test_another_colour_is_another_picture():
    assert near_pairs([likeness_of(Image.new("RGB", (64, 64), color)) for color in ("red", "blue", "red")]) == [(2, 0)]


def test_none_and_one():
    assert near_pairs([]) == near_pairs([likeness_of(Image.new("RGB", (64, 64)))]) == []


def test_blocks_do_not_matter(portraits, monkeypatch):
    found = [likeness_of(portrait) for portrait in [*portraits[:5], portraits[1], portraits[1]]]
    monkeypatch.setattr("spf.data.likeness.ROWS_AT_ONCE", 2)
    assert near_pairs(found) == [(5, 1), (6, 1)]


def test_the_report_names_both(picture_set, row, portraits):
    folder = picture_set(row("a.png"), row("b.jpg", base_text="another"), row("c.png", base_text="a third"))
    portraits[0].save(folder / "a.png")
    jpeg(portraits[0]).save(folder / "b.jpg")
    portraits[0].save(folder / "c.png")
    warnings = [(warning.kind, warning.file) for warning in check_folder(folder).warnings]
    assert warnings == [("duplicate-picture", "c.png"), ("near-duplicate", "b.jpg")]
