"""Maps as pictures: a colour for every value, blended over a portrait, and the scale that explains the colours."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from spf.metrics.preservation import resized_map

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


def colors(values: np.ndarray) -> np.ndarray:
    """Values in [0, 1], clipped there, of any shape (...) -> RGB in [0, 1], (..., 3)."""
    powers = np.clip(values, 0, 1)[..., None, None] ** np.arange(len(_VIRIDIS))[:, None]  # (..., 7, 1)
    return (powers * _VIRIDIS).sum(axis=-2).clip(0, 1)


def blend(picture: Image.Image, values: np.ndarray, opacity: float) -> Image.Image:
    """The map (H, W), resized to the picture, in colour over it. Opacity 0 is the picture, 1 the map alone."""
    colored = colors(resized_map(values, picture.size))
    mixed = (1 - opacity) * np.asarray(picture.convert("RGB"), np.float32) / 255 + opacity * colored
    return Image.fromarray((mixed.clip(0, 1) * 255).round().astype(np.uint8))


def trouble(values: np.ndarray) -> str | None:
    """Why a map cannot be shown as a picture: "nan", "empty" (0 everywhere), or None if it can."""
    if not np.isfinite(values).all():
        return "nan"
    return None if values.any() else "empty"


def legend(width: int = 256, height: int = 12) -> Image.Image:
    """The colour scale from 0 (left) to 1 (right)."""
    row = (colors(np.linspace(0, 1, width)) * 255).round().astype(np.uint8)
    return Image.fromarray(np.broadcast_to(row, (height, width, 3)).copy())


def data_uri(picture: Image.Image) -> str:
    """A picture as a PNG inside an address, so that showing it asks the server for nothing."""
    stream = io.BytesIO()
    picture.save(stream, format="PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
