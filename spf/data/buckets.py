"""Shapes of about equal area, so that pictures need not be squares: each picture goes to the one that cuts least of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

from spf.data.pictures import Shape

STEP = 16  # pixels: what every model's sides are multiples of
STEPS_PER_SIDE = 8  # of a square, or a few more: finer shapes would spread few pictures over too many batches
MOST = 2.0  # times as long as wide


def shapes(resolution: int) -> tuple[Shape, ...]:
    """All (width, height) for a model that draws squares of `resolution`, widest last: never more pixels than the square."""
    step = STEP * max(1, resolution // (STEP * STEPS_PER_SIDE))
    upright = [(width, resolution**2 // width // step * step) for width in range(step, resolution, step)]
    upright = [(width, height) for width, height in upright if width < height <= MOST * width]
    return *upright, (resolution, resolution), *((height, width) for width, height in reversed(upright))


def bucket_of(size: Shape, resolution: int) -> Shape:
    """The shape whose proportions are nearest to those of a picture of (width, height) pixels."""
    wanted = math.log(size[0] / size[1])
    return min(shapes(resolution), key=lambda shape: abs(math.log(shape[0] / shape[1]) - wanted))


def counted(found: Iterable[Shape]) -> dict[str, int]:
    """{"112x144": 9, ...}, narrowest first."""
    numbers = Counter(found)
    return {f"{width}x{height}": numbers[width, height] for width, height in sorted(numbers)}


def in_words(numbers: dict[str, int]) -> str:
    return ", ".join(f"{shape} ({number})" for shape, number in numbers.items())
