"""Picture folders of the embedded world, to teach a held-out attribute from."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from PIL import Image

from spf.data.metadata import MASKS
from spf.data.writer import write_folder
from spf.errors import InvalidInput
from spf.files import replace_folder
from spf.pocket import captions, renderer, world

MAX_COUNT = 10_000
ALL = "all"  # every held-out attribute in turn
# How often a base text names what its target hides, as people write who add a hat to long hair. A target that was only ever
# taught beside texts that are silent about it loses to the first text that is not.
KEEP_HIDDEN = 0.6


def render_folder(attribute: str, count: int, folder: Path, seed: int = 0, size: int = renderer.SIZE,
                  masks: bool = False) -> Path:
    """Write `count` pictures that show the target `attribute` (or "all" in turn), with metadata.jsonl.

    `masks` adds a folder of that name with a picture of each target's region, white inside, under its picture's name.
    Same arguments, same bytes. Raises InvalidInput for an unknown attribute or a count outside 1..10000, DataError if
    the folder is taken.
    """
    if attribute not in (*world.TARGETS, ALL):
        raise InvalidInput("--attribute", f"'{attribute}' is not known; choose one of {', '.join(world.TARGETS)}, or {ALL}")
    if not 1 <= count <= MAX_COUNT:
        raise InvalidInput("--count", f"must lie between 1 and {MAX_COUNT} (got {count})")
    write_folder(folder, examples(attribute, count, seed, size))
    if masks:
        write_masks(folder, target_masks(attribute, count, seed, size))
    return folder


def target_masks(attribute: str, count: int, seed: int, size: int) -> Iterator[Image.Image]:
    """Where the target is in each picture that `render_folder` writes, white inside."""
    for index in range(count):
        yield Image.fromarray(renderer.part_mask(_example(attribute, seed, index)[0], "target", size))


def write_masks(folder: Path, masks: Iterable[Image.Image]) -> None:
    """Masks for the pictures that `data.writer.write_folder` has written into `folder`, in their order."""
    staged = folder / f".{MASKS}.partial"
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir()
    for name, mask in zip(sorted(path.name for path in folder.glob("*.png")), masks, strict=True):
        mask.save(staged / name)
    replace_folder(staged, folder / MASKS)


def training_caption(attribute: str, seed: int, index: int) -> str:
    """The base text of the `index`-th picture that `render_folder` writes with these arguments."""
    return _example(attribute, seed, index)[1]


def examples(attribute: str, count: int, seed: int, size: int) -> Iterator[tuple[Image.Image, str, str]]:
    """(picture, base text, target text) of each picture that `render_folder` writes."""
    for index in range(count):
        portrait, base_text = _example(attribute, seed, index)
        yield renderer.draw(portrait, size), base_text, world.TARGETS[portrait.target].phrase


def _example(attribute: str, seed: int, index: int) -> tuple[world.Portrait, str]:
    rng = random.Random(f"dataset/{attribute}/{seed}/{index}")
    target = list(world.TARGETS)[index % len(world.TARGETS)] if attribute == ALL else attribute
    portrait = world.sample_portrait(rng, target)
    return portrait, captions.base_caption(portrait, rng, keep_hidden=KEEP_HIDDEN)
