"""Part masks as bits, and where they are kept."""

from dataclasses import replace

import numpy as np
import pytest

from spf.pocket import pictures, renderer
from spf.pocket.world import TARGETS


@pytest.mark.parametrize("target", [None, "winter-hat", "freckles", "neon"])
def test_bits_are_the_masks_of_the_renderer(target):
    shown = {"targets": (target,), "glasses": "none"} if target else {"glasses": "sunglasses"}
    portrait = replace(pictures.portrait_at("bits", 1, 0.0), **shown)
    bits = pictures.part_bits(portrait, 64)
    for bit, part in enumerate(renderer.PARTS):
        assert np.array_equal(bits >> bit & 1, renderer.part_mask(portrait, part, 64)), part
    assert (bits >> renderer.PARTS.index("target") & 1).any() == (target in TARGETS)


def test_masks_are_those_of_the_first_pictures_and_drawn_once(tmp_path, monkeypatch):
    def write(draw, portraits, path, shape):  # without the pool of processes
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.stack([draw(portrait) for portrait in portraits]))

    monkeypatch.setattr(pictures, "_write_all", write)
    drawn = pictures.picture_set(tmp_path, seed=3, count=4, target_share=0.5, size=64)
    masks = pictures.mask_set(tmp_path, seed=3, count=2, target_share=0.5, size=64)
    assert masks.shape == (2, 64, 64) and masks.dtype == np.uint8
    for portrait, bits in zip(drawn.portraits, masks, strict=False):
        assert np.array_equal(bits, pictures.part_bits(portrait, 64))
    monkeypatch.setattr(pictures, "_write_all", lambda *args: pytest.fail("drawn again"))
    assert np.array_equal(pictures.mask_set(tmp_path, seed=3, count=2, target_share=0.5, size=64), masks)
