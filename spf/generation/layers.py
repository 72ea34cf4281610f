"""Attention looked at layer by layer: the same phrase in every group of layers, in the customized model and in the original."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from einops import rearrange, reduce
from torch import Tensor

from spf.method.attention import AttentionLayer, mean_over_layers, minmax, phrase_attention

PARTS = ("first layers", "middle layers", "last layers")


def groups(layers: Sequence[AttentionLayer]) -> dict[str, list[int]]:
    """Which layers belong together: those of one grid, coarsest first; where all have one grid, thirds by depth."""
    grids = sorted({layer.grid for layer in layers})
    if len(grids) > 1:
        return {f"{h}x{w}": [index for index, layer in enumerate(layers) if layer.grid == (h, w)] for h, w in grids}
    parts = np.array_split(np.arange(len(layers)), min(len(PARTS), len(layers)))
    return {name: part.tolist() for name, part in zip(PARTS, parts, strict=False)}


def phrase_maps_by_group(layers: Sequence[AttentionLayer], weights: Tensor, size: tuple[int, int]) -> Tensor:
    """Eq. 6 / Eq. 17 with all layers, then with those of one group at a time; each layer is read once.

    weights (B, T, E, P) -> (B, 1 + G, P, *size), each map in [0, 1].
    """
    columns = rearrange(weights, "b t e p -> b t (e p)")
    read = [(phrase_attention(layer.query, layer.text_key, columns, layer.image_key, layer.scale), layer.grid)
            for layer in layers]
    maps = torch.stack([mean_over_layers([read[index] for index in part], size)
                        for part in (range(len(layers)), *groups(layers).values())], dim=1)  # (B, 1 + G, E P, H, W)
    return reduce(minmax(maps), "b g (e p) h w -> b g p h w", "mean", e=weights.shape[2])


def side_by_side(one: Sequence[AttentionLayer], other: Sequence[AttentionLayer]) -> list[AttentionLayer]:
    """The same layers of two models as one batch."""
    return [replace(a, query=torch.cat([a.query, b.query]), text_key=torch.cat([a.text_key, b.text_key]),
                    image_key=None if a.image_key is None else torch.cat([a.image_key, b.image_key]))
            for a, b in zip(one, other, strict=True)]
