"""FID and KID between originals and customized portraits: lower is closer to the original model's behaviour."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from spf.metrics.base import Metric, Pairs, PictureFeatures, Rows
from spf.metrics.weights import Published, fill, find, load_tensors

INCEPTION = Published(
    "FID", "pt_inception-2015-12-05-6726825d.pth",
    "https://github.com/mseitzer/pytorch-fid/releases/tag/fid_weights (Apache-2.0)")
KERNEL_DEGREE = 3


class PairedFeatures:
    """Features of both pictures of a pair side by side: rows (B, 2F), so that resampling keeps pairs together."""

    def __init__(self, features: PictureFeatures):
        self.features, self.name = features, features.name

    def __call__(self, pairs: Pairs) -> Rows:
        both = torch.cat([self.features(pairs.original), self.features(pairs.customized)], dim=1)
        return Rows.of(both.double().cpu().numpy())


def metrics(features: PictureFeatures, width: int) -> list[Metric]:
    """FID and KID on features of `width` columns. FID needs more pairs than that: else a covariance has no full rank."""
    extractor = PairedFeatures(features)
    return [
        Metric("fid", "FID", "down", extractor, frechet_of_rows, minimum=width + 1, resamples=40, biased=True),
        Metric("kid", "KID x 1000", "down", extractor, kernel_of_rows, scale=1000, minimum=2, resamples=40, biased=True),
    ]


def frechet_of_rows(rows: np.ndarray) -> float:
    """Frechet distance of the left and the right half of the columns."""
    return frechet_distance(*gaussian(_left(rows)), *gaussian(_right(rows)))


def kernel_of_rows(rows: np.ndarray) -> float:
    return kernel_distance(_left(rows), _right(rows))


def gaussian(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (F,) and unbiased covariance (F, F) of features (N, F), float64."""
    return features.mean(axis=0), np.atleast_2d(np.cov(features, rowvar=False))


def frechet_distance(mu1: np.ndarray, cov1: np.ndarray, mu2: np.ndarray, cov2: np.ndarray) -> float:
    """|mu1 - mu2|^2 + Tr(C1 + C2 - 2 (C1 C2)^1/2), Heusel et al. 2017, in float64.

    Tr (C1 C2)^1/2 is the sum of the singular values of R1 R2 with R = C^1/2, which are those of (R1 C2 R1)^1/2: symmetric
    roots only, so that no imaginary part has to be thrown away, and nearly singular matrices lose no digits to a square.
    """
    trace_root = np.linalg.svd(_root(cov1) @ _root(cov2), compute_uv=False).sum()
    distance = np.square(mu1 - mu2).sum() + np.trace(cov1) + np.trace(cov2) - 2 * trace_root
    return float(max(distance, 0.0))  # rounding alone can make it negative


def _root(covariance: np.ndarray) -> np.ndarray:
    """The symmetric square root of a positive semi-definite matrix."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(values.clip(min=0))) @ vectors.T


def kernel_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Unbiased squared MMD with the kernel (x.y / F + 1)^3, Binkowski et al. 2018; features (N, F), N >= 2 each.

    Can be slightly negative for equal distributions: that is what unbiased means.
    """
    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / a.shape[1] + 1) ** KERNEL_DEGREE

    def off_diagonal_mean(k: np.ndarray) -> float:
        return (k.sum() - np.trace(k)) / (len(k) * (len(k) - 1))

    # x and y are pairs of one seed, so the diagonal of the cross term is left out as well: equal sets give exactly 0
    return float(off_diagonal_mean(kernel(x, x)) + off_diagonal_mean(kernel(y, y)) - 2 * off_diagonal_mean(kernel(x, y)))


def _left(rows: np.ndarray) -> np.ndarray:
    return rows[:, :rows.shape[1] // 2]


def _right(rows: np.ndarray) -> np.ndarray:
    return rows[:, rows.shape[1] // 2:]


class Inception:
    """Pool3 features (B, 2048) of the Inception network that FID is defined on (TensorFlow's, as ported for PyTorch)."""

    name = "Inception-v3 2015-12-05 (antialiased bicubic to 299)"
    width = 2048

    def __init__(self, folder: Path, device: torch.device | str = "cpu"):
        path = find(INCEPTION, folder)
        self.network = fill(_inception(), load_tensors(path), path).to(device)
        self.network.fc = torch.nn.Identity()

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        images = images.to(next(self.network.parameters()).device).float().clamp(-1, 1)
        images = F.interpolate(images, (299, 299), mode="bicubic", antialias=True, align_corners=False).clamp(-1, 1)
        return self.network(images)


def _inception() -> torch.nn.Module:
    """torchvision's Inception-v3 with what the TensorFlow graph does otherwise: average pooling that does not count the
    padding, maximum pooling in the very last block, and 1008 classes."""
    from torchvision.models import inception_v3

    network = inception_v3(weights=None, num_classes=1008, aux_logits=False, init_weights=False, transform_input=False)
    for name, block in network.named_children():
        if name.startswith("Mixed_") and name not in ("Mixed_6a", "Mixed_7a"):
            block.branch_pool.register_forward_pre_hook(_PoolAgain("max" if name == "Mixed_7c" else "average", block))
    return network


class _PoolAgain:
    """Before `branch_pool` runs: its input is pooled as TensorFlow would have pooled the block's input."""

    def __init__(self, kind: str, block: torch.nn.Module):
        self.kind = kind
        block.register_forward_pre_hook(self._keep)

    def _keep(self, _module, args: tuple[Tensor, ...]) -> None:
        self.block_input = args[0]

    def __call__(self, _module, _args) -> tuple[Tensor]:
        block_input, self.block_input = self.block_input, None
        if self.kind == "max":
            return (F.max_pool2d(block_input, kernel_size=3, stride=1, padding=1),)
        return (F.avg_pool2d(block_input, kernel_size=3, stride=1, padding=1, count_include_pad=False),)
