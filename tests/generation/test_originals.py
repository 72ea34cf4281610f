import pytest
import torch
from PIL import Image

from spf.generation.originals import Original, Originals


def original(count=0):
    """With `count` bytes of latents."""
    latents = (torch.zeros(count, dtype=torch.uint8),) if count else ()
    return Original(Image.new("RGB", (8, 8)), torch.zeros(0), torch.zeros(0), latents)


def test_the_latest_are_kept():
    kept = Originals(pictures=2, latent_bytes=100)
    for key in "abab" + "c":
        kept.keep(key, original())
    assert len(kept) == 2 and kept.get("a") is None and kept.get("b") and kept.get("c")
    kept.clear()
    assert len(kept) == 0


@pytest.mark.parametrize("sizes, left", [
    ((40, 40), "ab"), ((40, 61), "b"), ((400,), "a"), ((0, 60, 30, 20), "cd"), ((60, 0, 0), "abc")])
def test_latents_take_no_more_than_was_said_but_the_last_is_always_kept(sizes, left):
    kept = Originals(pictures=9, latent_bytes=100)
    for key, size in zip("abcd", sizes, strict=False):
        kept.keep(key, original(size))
    assert [key for key in "abcd" if kept.get(key)] == list(left)
