"""LPIPS: how far apart two pictures are in the layers of a network, Zhang et al. 2018. Lower is more alike."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from spf.backbones.capture import capture
from spf.metrics.base import Metric, MetricUnavailable, Pairs, Rows
from spf.metrics.weights import Published, find, load_tensors

ALEXNET = Published("LPIPS", "alexnet-owt-7be5be79.pth",
                    "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth (BSD-3)")
LINEAR = Published("LPIPS", "lpips/alex.pth",
                   "the file lpips/weights/v0.1/alex.pth of https://github.com/richzhang/PerceptualSimilarity (BSD-2)")
_EPSILON = 1e-10  # of the published implementation, inside the channel normalisation


class PictureLayers(Protocol):
    """Feature maps of several layers; owns its preprocessing."""

    name: str

    def __call__(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) RGB in [-1, 1] -> per layer (B, C, h, w)"""


def perceptual_distance(a: Sequence[Tensor], b: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    """(B,): sum over layers of the spatial mean of w . (f_a - f_b)^2, features normalised over channels.

    a, b: per layer (B, C, h, w); weights: per layer (C,), non-negative.
    """
    total = torch.zeros(len(a[0]), dtype=torch.float64, device=a[0].device)
    for f_a, f_b, w in zip(a, b, weights, strict=True):
        squared = (_unit(f_a) - _unit(f_b)).square()  # (B, C, h, w)
        total += (squared * w[:, None, None]).sum(dim=1).mean(dim=(1, 2)).double()
    return total


def _unit(features: Tensor) -> Tensor:
    return features / (features.square().sum(dim=1, keepdim=True).sqrt() + _EPSILON)


class Lpips:
    """`weights` of None weigh all channels alike, which is the paper's unlearnt variant."""

    def __init__(self, layers: PictureLayers, weights: Sequence[Tensor] | None = None):
        self.layers, self.weights, self.name = layers, weights, layers.name

    @torch.no_grad()
    def __call__(self, pairs: Pairs) -> Rows:
        a, b = self.layers(pairs.original), self.layers(pairs.customized)
        weights = self.weights or [f.new_ones(f.shape[1]) for f in a]
        return Rows.of(perceptual_distance(a, b, weights).cpu().numpy())


def metric(extractor: Lpips) -> Metric:
    return Metric("lpips", "LPIPS", "down", extractor)


def published(folder: Path, device: torch.device | str = "cpu") -> Lpips:
    """AlexNet v0.1, the variant that papers report. Raises MetricUnavailable naming the file that is missing."""
    layers = AlexNet(folder, device)
    linear = load_tensors(path := find(LINEAR, folder))
    try:
        weights = [linear[f"lin{index}.model.1.weight"].float().flatten().to(device) for index in range(len(AlexNet.sites))]
    except KeyError as error:
        raise MetricUnavailable(f"{path} has no weights called {error}; get the file of version 0.1.") from None
    return Lpips(layers, weights)


class AlexNet:
    """The five ReLU outputs of torchvision's AlexNet."""

    name = "AlexNet, LPIPS v0.1"
    sites = ("1", "4", "7", "9", "11")  # the ReLUs among `features`

    def __init__(self, folder: Path, device: torch.device | str = "cpu"):
        from torchvision.models import alexnet

        path = find(ALEXNET, folder)
        tensors = {name.removeprefix("features."): value for name, value in load_tensors(path).items()
                   if name.startswith("features.")}
        with torch.device("meta"):  # its classifier, nine tenths of the weights, is not needed
            self.features = alexnet(weights=None).features
        try:
            self.features.load_state_dict(tensors, assign=True)
        except RuntimeError:
            raise MetricUnavailable(f"{path} is not torchvision's AlexNet; get it from {ALEXNET.source}.") from None
        self.features.float().eval().requires_grad_(False).to(device)
        # mean and deviation of ImageNet for pictures in [-1, 1], as published
        self._shift = torch.tensor([-0.030, -0.088, -0.188], device=device).view(1, 3, 1, 1)
        self._scale = torch.tensor([0.458, 0.448, 0.450], device=device).view(1, 3, 1, 1)

    def __call__(self, images: Tensor) -> list[Tensor]:
        images = images.to(self._shift.device).float().clamp(-1, 1)
        with capture(self.features, self.sites) as outputs:
            self.features((images - self._shift) / self._scale)
        # the next layer's ReLU works in place on its own input, never on these
        return [outputs[site] for site in self.sites]


def resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Bicubic, antialiased, clamped to [-1, 1]; unchanged where the size already fits."""
    images = images.float().clamp(-1, 1)
    if images.shape[-2:] == size:
        return images
    return F.interpolate(images, size, mode="bicubic", antialias=True, align_corners=False).clamp(-1, 1)
