"""Picture folders of the embedded world, to teach a held-out attribute from."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from spf.data.writer import write_folder
from spf.errors import InvalidInput
from spf.pocket import captions, renderer, world

MAX_COUNT = 10_000


def render_folder(attribute: str, count: int, folder: Path, seed: int = 0, size: int = renderer.SIZE) -> Path:
    """Write `count` pictures that show the target `attribute`, with metadata.jsonl. Same arguments, same bytes.

    Raises InvalidInput for an unknown attribute or a count outside 1..10000, DataError if the folder is taken.
    """
    if attribute not in world.TARGETS:
        raise InvalidInput("--attribute", f"'{attribute}' is not known; choose one of {', '.join(world.TARGETS)}")
    if not 1 <= count <= MAX_COUNT:
        raise InvalidInput("--count", f"must lie between 1 and {MAX_COUNT} (got {count})")
    write_folder(folder, _pictures(attribute, count, seed, size))
    return folder


def _pictures(attribute: str, count: int, seed: int, size: int) -> Iterator[tuple[Image.Image, str, str]]:
    for index in range(count):
        rng = random.Random(f"dataset/{attribute}/{seed}/{index}")
        portrait = world.sample_portrait(rng, attribute)
        yield renderer.draw(portrait, size), captions.base_caption(portrait, rng), world.TARGETS[attribute].phrase
