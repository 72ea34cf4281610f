"""Maps as pictures: a colour for every value, blended over a portrait, and the scale that explains the colours."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image, ImageFilter

from spf.metrics.pixels import resized_map

POLLUTION_TOP = 0.5  # difference that has the scale's last colour
FLAT = 0.05  # a map that rises no further above its lowest value has no place
CHANGE_TOP, PALE = 0.12, 0.35  # difference that counts as a full change; how much is left of what stayed

# Viridis as a polynomial in the value, one row per power (M. Zucker's fit, public domain). Lightness only rises.
_VIRIDIS = np.array([
    [0.2777273272234177, 0.005407344544966578, 0.3340998053353061],
    [0.1050930431085774, 1.404613529898575, 1.384590162594685],
    [-0.3308618287255563, 0.214847559468213, 0.09509516302823659],
    [-4.634230498983486, -5.799100973351585, -19.33244095627987],
    [6.228269936347081, 14.17993336680509, 56.69055260068105],
    [4.776384997670288, -13.74514537774601, -65.35303263337234],
    [-5.435455855934631, 4.645852612178535, 26.3124352495832],
])


_LEVELS = 2048  # of the table below: neighbours differ by less than half of an 8-bit level
_TABLE = (np.linspace(0, 1, _LEVELS)[:, None] ** np.arange(len(_VIRIDIS)) @ _VIRIDIS).clip(0, 1).astype(np.float32)


def colors(values: np.ndarray) -> np.ndarray:
    """Values in [0, 1], clipped there, of any shape (...) -> RGB in [0, 1], (..., 3)."""
    return _TABLE[(np.clip(values, 0, 1) * (_LEVELS - 1)).round().astype(np.int32)]


def blend(picture: Image.Image, values: np.ndarray, opacity: float) -> Image.Image:
    """The map (H, W), resized to the picture, in colour over it. Opacity 0 is the picture, 1 the map alone."""
    colored = colors(resized_map(values, picture.size))
    mixed = (1 - opacity) * np.asarray(picture.convert("RGB"), np.float32) / 255 + opacity * colored
    return _picture(mixed)


def pollution(original: Image.Image, customized: Image.Image, sfcm: np.ndarray) -> Image.Image:
    """|difference| to the original in colour where the SFCM is below one half; inside it, the portrait in gray.

    The scale ends at half of the full range: a difference of 0.5 or more is yellow.
    """
    before, after = (np.asarray(picture.convert("RGB"), np.float32) / 255 for picture in (original, customized))
    colored = colors(np.abs(before - after).mean(axis=-1) / POLLUTION_TOP)
    gray = np.repeat(after.mean(axis=-1, keepdims=True), 3, axis=-1)
    outside = (resized_map(sfcm, original.size) < 0.5)[..., None]
    return _picture(np.where(outside, colored, gray))


def changes(before: Image.Image, after: Image.Image) -> Image.Image:
    """`after` with everything pale that looks as in `before`, so that what changed stands out."""
    old, new = (np.asarray(picture.convert("RGB"), np.float32) / 255 for picture in (before, after))
    difference = np.abs(old - new).mean(axis=-1)
    soft = _picture(difference).filter(ImageFilter.BoxBlur(max(after.width // 64, 1)))
    strength = (np.asarray(soft, np.float32)[..., None] / 255 / CHANGE_TOP).clip(0, 1)
    return _picture(strength * new + (1 - strength) * (1 - PALE * (1 - new.mean(axis=-1, keepdims=True))))


def _picture(values: np.ndarray) -> Image.Image:
    return Image.fromarray((values.clip(0, 1) * 255).round().astype(np.uint8))


def trouble(values: np.ndarray) -> str | None:
    """Why a map cannot be shown as a picture: "nan", "empty" (0 everywhere), or None if it can."""
    if not np.isfinite(values).all():
        return "nan"
    return None if values.any() else "empty"


def is_spread(values: np.ndarray) -> bool:
    """Whether no place of a map (H, W) stands out: it is flat, or most of it is above the middle of its own range.

    Maps of phrases are stretched to [0, 1], so that their range says nothing; a phrase that has a place leaves less than half of
    the picture above the middle, one for the whole portrait more.
    """
    low, high = values.min(), values.max()
    return bool(high - low < FLAT or (values > (low + high) / 2).mean() > 0.5)


def legend(width: int = 256, height: int = 12) -> Image.Image:
    """The colour scale from 0 (left) to 1 (right)."""
    row = (colors(np.linspace(0, 1, width)) * 255).round().astype(np.uint8)
    return Image.fromarray(np.broadcast_to(row, (height, width, 3)).copy())


def data_uri(picture: Image.Image, passing: bool = False) -> str:
    """A picture inside an address, so that showing it asks the server for nothing.

    As a PNG, exact; one that is only seen in `passing` as a JPEG, which is written sooner and is smaller.
    """
    stream, kind = io.BytesIO(), "jpeg" if passing else "png"
    picture.save(stream, kind, **({"quality": 90, "subsampling": 0} if passing else {}))
    return f"data:image/{kind};base64," + base64.b64encode(stream.getvalue()).decode("ascii")
