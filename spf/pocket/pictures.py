"""Rendered pictures for pre-training: a list of portraits that a seed determines, and their pixels in one file."""

from __future__ import annotations

import hashlib
import inspect
import multiprocessing
import os
import random
from collections.abc import Callable
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
    path = folder / f"pictures-{_key(seed, count, target_share, size)}.npy"
    portraits = [portrait_at(seed, index, target_share) for index in range(count)]
    if not path.exists():
        _render_all(portraits, path, size)
    return PictureSet(portraits, np.load(path, mmap_mode="r"))


def mask_set(folder: Path, seed: int | str, count: int, target_share: float, size: int = renderer.SIZE) -> np.ndarray:
    """The part masks of the first `count` portraits of a stream: (count, size, size) uint8, bit i is set where PARTS[i] is.

    Ten drawings per portrait, so they are kept in `folder` like the pictures.
    """
    path = folder / f"masks-{_key(seed, count, target_share, size)}.npy"
    if not path.exists():
        portraits = [portrait_at(seed, index, target_share) for index in range(count)]
        _write_all(_Masks(size), portraits, path, (size, size))
    return np.load(path, mmap_mode="r")


def part_bits(portrait: Portrait, size: int = renderer.SIZE) -> np.ndarray:
    """All part masks of one portrait as bits: (size, size) uint8."""
    bits = np.zeros((size, size), np.uint8)
    for bit, part in enumerate(renderer.PARTS):
        if (part, getattr(portrait, part, "")) not in (("glasses", "none"), ("target", None)):
            bits |= renderer.part_mask(portrait, part, size).astype(np.uint8) << bit
    return bits


def _key(seed: int | str, count: int, target_share: float, size: int) -> str:
    """Names what the seed and the source of this world determine."""
    source = inspect.getsource(world) + inspect.getsource(renderer)
    return hashlib.sha256(f"{source}/{seed}/{count}/{target_share}/{size}".encode()).hexdigest()[:16]


def _render_all(portraits: list[Portrait], path: Path, size: int) -> None:
    _write_all(_Draw(size), portraits, path, (size, size, 3))


def _write_all(draw: Callable[[Portrait], np.ndarray], portraits: list[Portrait], path: Path, shape: tuple[int, ...]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_suffix(".partial")
    pixels = np.lib.format.open_memmap(staged, "w+", np.uint8, (len(portraits), *shape))
    # spawn: the parent has started torch's threads, which fork would copy in an undefined state
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        drawn = pool.imap(draw, portraits, chunksize=64)
        for index, picture in enumerate(tqdm(drawn, total=len(portraits), desc="rendering", unit="picture")):
            pixels[index] = picture
    pixels.flush()
    os.replace(staged, path)


@dataclass(frozen=True)
class _Draw:
    size: int

    def __call__(self, portrait: Portrait) -> np.ndarray:
        return np.asarray(renderer.draw(portrait, self.size))


@dataclass(frozen=True)
class _Masks:
    size: int

    def __call__(self, portrait: Portrait) -> np.ndarray:
        return part_bits(portrait, self.size)
