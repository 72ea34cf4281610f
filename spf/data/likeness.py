"""Which pictures look alike: the same photograph scaled, saved again in another format, or cropped by a pixel or two.

Two signs must agree. A difference hash of 256 bits (whether brightness rises from one cell of a 17x16 grid to the next)
says that shapes agree; the mean colours of 4x4 cells keep apart drawings that differ only in the colour of something.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

HASH_SIDE = 16
COLOR_SIDE = 4
MAX_BITS = 14  # of 256 that may differ; different photographs differ in about half
MAX_COLOR = 10.0  # largest difference of a cell's mean colour, of 255
ROWS_AT_ONCE = 256


@dataclass(frozen=True, eq=False)
class Likeness:
    """What is compared of one picture."""

    bits: np.ndarray  # (4,) uint64
    colors: np.ndarray  # (48,) float32 in [0, 255]


def likeness_of(image: Image.Image) -> Likeness:
    """Of an upright RGB or RGBA picture of any size."""
    small = image.convert("RGB")
    grey = np.asarray(small.convert("L").resize((HASH_SIDE + 1, HASH_SIDE), Image.Resampling.BOX), np.int16)
    bits = np.packbits(grey[:, 1:] > grey[:, :-1]).view(np.uint64)
    colors = np.asarray(small.resize((COLOR_SIDE, COLOR_SIDE), Image.Resampling.BOX), np.float32).ravel()
    return Likeness(bits, colors)


def near_pairs(pictures: Sequence[Likeness]) -> list[tuple[int, int]]:
    """(later, earlier): every picture that looks like an earlier one, with the first that it looks like."""
    if len(pictures) < 2:
        return []
    bits, colors = (np.stack([getattr(picture, name) for picture in pictures]) for name in ("bits", "colors"))
    pairs = []
    for start in range(0, len(pictures), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        distance = np.bitwise_count(bits[rows, None] ^ bits[None]).sum(axis=-1, dtype=np.int32)  # (R, N)
        for row, column in zip(*np.nonzero(distance <= MAX_BITS), strict=True):
            if column < start + row and np.abs(colors[start + row] - colors[column]).max() <= MAX_COLOR:
                pairs.append((start + int(row), int(column)))
    first: dict[int, int] = {}
    for later, earlier in pairs:
        first.setdefault(later, earlier)
    return list(first.items())
