"""Attention looked at layer by layer: the same phrase in every group of layers, in the customized model and in the original."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from spf.method.attention import AttentionLayer, encoder_phrase_maps

PARTS = ("first layers", "middle layers", "last layers")


def groups(layers: Sequence[AttentionLayer]) -> dict[str, list[int]]:
    """Which layers belong together: those of one grid, coarsest first; where all have one grid, thirds by depth."""
    grids = sorted({layer.grid for layer in layers})
    if len(grids) > 1:
        return {f"{h}x{w}": [index for index, layer in enumerate(layers) if layer.grid == (h, w)] for h, w in grids}
    parts = np.array_split(np.arange(len(layers)), min(len(PARTS), len(layers)))
    return {name: part.tolist() for name, part in zip(PARTS, parts, strict=False)}


def phrase_maps_by_group(layers: Sequence[AttentionLayer], weights: Tensor, size: tuple[int, int]) -> Tensor:
    """Eq. 6 / Eq. 17 with the layers of one group at a time. weights (1, T, E, P) -> (G, P, *size), each map in [0, 1]."""
    return torch.cat([encoder_phrase_maps([layers[index] for index in part], weights, size) for part in groups(layers).values()])
