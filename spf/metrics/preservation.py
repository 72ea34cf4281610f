"""How much of the original a customized portrait keeps, in pixels and in features, inside and outside a region."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from spf.metrics.base import Metric, Pairs, Rows
from spf.metrics.lpips import PictureLayers

NO_OUTSIDE = "the target may act everywhere"


class PixelPollution:
    """Mean |difference| in [0, 1] outside the region where the target may act."""

    name = "pixels"

    def __call__(self, pairs: Pairs) -> Rows:
        difference = (pairs.original - pairs.customized).abs().mean(dim=1) / 2  # (B, H, W)
        return _outside([difference], pairs.regions)


class FeaturePollution:
    """The unlearnt LPIPS, its spatial mean taken outside the region: 1 - cosine at every position of every layer."""

    def __init__(self, layers: PictureLayers):
        self.layers, self.name = layers, layers.name

    @torch.no_grad()
    def __call__(self, pairs: Pairs) -> Rows:
        layers = zip(self.layers(pairs.original), self.layers(pairs.customized), strict=True)
        return _outside([1 - F.cosine_similarity(a, b, dim=1) for a, b in layers], pairs.regions)


def _outside(differences: list[Tensor], regions: np.ndarray) -> Rows:
    """The sum over maps (B, h, w) of their mean outside the regions (B, H, W), which are averaged to each map's grid."""
    outside = torch.from_numpy(~regions).float()[:, None]
    total = torch.zeros(len(regions), dtype=torch.float64)
    for difference in differences:
        weight = F.adaptive_avg_pool2d(outside, difference.shape[-2:])[:, 0].double()
        total += (difference.double().cpu() * weight).sum(dim=(1, 2)) / weight.sum(dim=(1, 2))  # 0/0 = NaN: named below
    return Rows.of(total.numpy(), [NO_OUTSIDE if region.all() else "" for region in regions])


def metrics(layers: PictureLayers) -> list[Metric]:
    return [
        Metric("pixels_outside", "Pixel difference outside the region", "down", PixelPollution()),
        Metric("features_outside", "Feature difference outside the region", "down", FeaturePollution(layers)),
    ]
