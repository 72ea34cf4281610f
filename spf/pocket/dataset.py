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

MAX_COUNT, MAX_TOGETHER = 10_000, 4
ALL = "all"  # every held-out attribute in turn
# How often a base text names what its target hides, as people write who add a hat to long hair. A target that was only ever
# taught beside texts that are silent about it loses to the first text that is not.
KEEP_HIDDEN = 0.6


def render_folder(attribute: str, count: int, folder: Path, seed: int = 0, size: int = renderer.SIZE,
                  masks: bool = False, together: int = 1) -> Path:
    """Write `count` pictures that show the target `attribute` (or "all" in turn), with metadata.jsonl.

    With `together` above 1 up to so many targets are in one picture, and its target text names them all, parted by commas.
    `masks` adds a folder of that name with a picture of each target's region, white inside, under its picture's name.
    Same arguments, same bytes. Raises InvalidInput for an unknown attribute, a count outside 1..10000 or `together`
    outside 1..4, DataError if the folder is taken.
    """
    if attribute not in (*world.TARGETS, ALL):
        raise InvalidInput("--attribute", f"'{attribute}' is not known; choose one of {', '.join(world.TARGETS)}, or {ALL}")
    if not 1 <= count <= MAX_COUNT:
        raise InvalidInput("--count", f"must lie between 1 and {MAX_COUNT} (got {count})")
    if not 1 <= together <= MAX_TOGETHER:
        raise InvalidInput("--together", f"must lie between 1 and {MAX_TOGETHER} (got {together})")
    write_folder(folder, examples(attribute, count, seed, size, together))
    if masks:
        write_masks(folder, target_masks(attribute, count, seed, size, together))
    return folder


def target_masks(attribute: str, count: int, seed: int, size: int, together: int = 1) -> Iterator[Image.Image]:
    """Where the target is in each picture that `render_folder` writes, white inside."""
    for index in range(count):
        yield Image.fromarray(renderer.part_mask(_example(attribute, seed, index, together)[0], "target", size))


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


def examples(attribute: str, count: int, seed: int, size: int, together: int = 1) -> Iterator[tuple[Image.Image, str, str]]:
    """(picture, base text, target text) of each picture that `render_folder` writes."""
    for index in range(count):
        portrait, base_text = _example(attribute, seed, index, together)
        yield renderer.draw(portrait, size), base_text, ", ".join(world.TARGETS[name].phrase for name in portrait.targets)


def _example(attribute: str, seed: int, index: int, together: int = 1) -> tuple[world.Portrait, str]:
    rng = random.Random(f"dataset/{attribute}/{seed}/{index}")
    target = list(world.TARGETS)[index % len(world.TARGETS)] if attribute == ALL else attribute
    portrait = world.sample_portrait(rng, target)
    if together > 1:
        portrait = world.joined_by(portrait, rng, together)
    return portrait, captions.base_caption(portrait, rng, keep_hidden=KEEP_HIDDEN)
