"""Rendered pictures for pre-training: a list of portraits that a seed determines, and their pixels in one file."""

from __future__ import annotations

import hashlib
import inspect
import multiprocessing
import os
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from spf.pocket import renderer, world
from spf.pocket.world import TARGETS, Portrait


def portrait_at(seed: int | str, index: int, target_share: float) -> Portrait:
    """The `index`-th portrait of a stream; every target attribute is equally frequent among `target_share` of them."""
    rng = random.Random(f"{seed}/{index}")
    target = rng.choice(list(TARGETS)) if rng.random() < target_share else None
    return world.sample_portrait(rng, target)


@dataclass(frozen=True)
class PictureSet:
    portraits: list[Portrait]
    pixels: np.ndarray  # (N, size, size, 3) uint8, read from disk as needed

    def without_targets(self) -> PictureSet:
        """Only the pictures that the denoiser may see."""
        keep = [index for index, portrait in enumerate(self.portraits) if portrait.target is None]
        return PictureSet([self.portraits[index] for index in keep], self.pixels[keep])


def picture_set(folder: Path, seed: int | str, count: int, target_share: float, size: int = renderer.SIZE) -> PictureSet:
    """Load the set from `folder`, rendering it first if this world has not been rendered there before."""
    source = inspect.getsource(world) + inspect.getsource(renderer)
    key = hashlib.sha256(f"{source}/{seed}/{count}/{target_share}/{size}".encode()).hexdigest()[:16]
    path = folder / f"pictures-{key}.npy"
    portraits = [portrait_at(seed, index, target_share) for index in range(count)]
    if not path.exists():
        _render_all(portraits, path, size)
    return PictureSet(portraits, np.load(path, mmap_mode="r"))


def _render_all(portraits: list[Portrait], path: Path, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_suffix(".partial")
    pixels = np.lib.format.open_memmap(staged, "w+", np.uint8, (len(portraits), size, size, 3))
    # spawn: the parent has started torch's threads, which fork would copy in an undefined state
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        drawn = pool.imap(_Draw(size), portraits, chunksize=64)
        for index, picture in enumerate(tqdm(drawn, total=len(portraits), desc="rendering", unit="picture")):
            pixels[index] = picture
    pixels.flush()
    os.replace(staged, path)


@dataclass(frozen=True)
class _Draw:
    size: int

    def __call__(self, portrait: Portrait) -> np.ndarray:
        return np.asarray(renderer.draw(portrait, self.size))
