"""Differences of pictures in plain pixels, without torch: what the page and the result files need."""

from __future__ import annotations

import numpy as np
from PIL import Image


def mean_absolute_difference(original: Image.Image, customized: Image.Image, region: np.ndarray | None = None) -> float:
    """Mean |difference| of two RGB pictures of one size, in [0, 1]; over the pixels of `region` (H, W) bool if given.

    NaN if the region is empty: there is then nothing to compare.
    """
    difference = np.abs(np.asarray(original, np.float32) - np.asarray(customized, np.float32)).mean(axis=2) / 255
    if region is None:
        return float(difference.mean())
    return float(difference[region].mean()) if region.any() else float("nan")


def resized_map(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A map in [0, 1] on the latent grid, bilinear at a picture's (width, height); (H, W) float32 in [0, 1]."""
    image = Image.fromarray(values.astype(np.float32), mode="F").resize(size, Image.Resampling.BILINEAR)
    return np.asarray(image).clip(0, 1)
