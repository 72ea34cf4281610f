"""Seg-Cons: how much the segments of original and customized portrait overlap, in per cent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from spf.backbones.segment_anything import SegmentAnything
from spf.errors import ModelNotFound
from spf.metrics.base import Metric, MetricUnavailable, Pairs, Rows
from spf.metrics.weights import Published, find

SAM = Published("Seg-Cons", "sam-vit-huge", "https://huggingface.co/facebook/sam-vit-huge (Apache-2.0)")
SMALLEST_SHARE = 0.005  # of the picture; what is smaller comes and goes by chance
NOTHING_FOUND = "no segment in either picture"


class PartParser(Protocol):
    name: str

    def parse(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) RGB in [-1, 1] -> (B, P, H, W) probabilities, one map for each named part."""


class SegmentFinder(Protocol):
    name: str

    def __call__(self, image: Tensor) -> np.ndarray:
        """(3, H, W) RGB in [-1, 1] -> (S, H, W) bool, unnamed and possibly overlapping segments."""


class PartConsistency:
    """Mean IoU of the named parts that either picture shows."""

    def __init__(self, parser: PartParser, threshold: float = 0.5):
        self.parser, self.threshold, self.name = parser, threshold, parser.name

    @torch.no_grad()
    def __call__(self, pairs: Pairs) -> Rows:
        a = (self.parser.parse(pairs.original) > self.threshold).cpu().numpy()
        b = (self.parser.parse(pairs.customized) > self.threshold).cpu().numpy()
        return _scored(a, b, part_consistency)


class SegmentConsistency:
    """The same for segments without names, which have to be matched first."""

    def __init__(self, finder: SegmentFinder):
        self.finder, self.name = finder, finder.name

    @torch.no_grad()
    def __call__(self, pairs: Pairs) -> Rows:
        a, b = ([self.finder(picture) for picture in pictures] for pictures in (pairs.original, pairs.customized))
        return _scored(a, b, segment_consistency)


def sam(folder: Path, device: torch.device | str = "cpu") -> SegmentConsistency:
    """Automatic masks of SAM ViT-H. Raises MetricUnavailable naming the folder that is missing or damaged."""
    try:
        return SegmentConsistency(SegmentAnything(find(SAM, folder), device))
    except ModelNotFound as error:
        raise MetricUnavailable(str(error)) from None


def metric(extractor: PartConsistency | SegmentConsistency) -> Metric:
    return Metric("seg_cons", "Seg-Cons", "up", extractor, scale=100)


def _scored(a, b, score: Callable[[np.ndarray, np.ndarray], float]) -> Rows:
    values = [score(x, y) if x.any() or y.any() else float("nan") for x, y in zip(a, b, strict=True)]
    return Rows.of(values, [NOTHING_FOUND if np.isnan(value) else "" for value in values])


def part_consistency(a: np.ndarray, b: np.ndarray) -> float:
    """Mean over parts seen in either picture of |a & b| / |a | b|; masks (P, H, W) bool, in [0, 1]. NaN if none is seen.

    A part is seen where it takes 0.5 % of the picture: a few stray pixels are none.
    """
    union = (a | b).sum(axis=(1, 2))
    seen = np.maximum(a.mean(axis=(1, 2)), b.mean(axis=(1, 2))) >= SMALLEST_SHARE
    return float(((a & b).sum(axis=(1, 2))[seen] / union[seen]).mean()) if seen.any() else float("nan")


def segment_consistency(a: np.ndarray, b: np.ndarray) -> float:
    """Area-weighted IoU under the best one-to-one matching, averaged over both directions; masks (S, H, W) bool, in [0, 1].

    Segments under 0.5 % of the picture are left out. 1 if nothing is left in both, 0 if in one.
    """
    a, b = (masks[masks.mean(axis=(1, 2)) >= SMALLEST_SHARE] for masks in (a, b))
    if not len(a) or not len(b):
        return float(len(a) == len(b))
    overlap = overlaps(a, b)
    rows, columns = best_matching(overlap)
    matched = overlap[rows, columns]
    areas = [masks.sum(axis=(1, 2)).astype(np.float64) for masks in (a, b)]
    forth, back = (areas[0][rows] * matched).sum() / areas[0].sum(), (areas[1][columns] * matched).sum() / areas[1].sum()
    return float((forth + back) / 2)


def overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IoU of every mask of `a` (S, H, W) with every one of `b` (T, H, W): (S, T)."""
    flat_a, flat_b = (masks.reshape(len(masks), -1).astype(np.float64) for masks in (a, b))
    shared = flat_a @ flat_b.T
    union = flat_a.sum(axis=1)[:, None] + flat_b.sum(axis=1)[None] - shared
    return shared / np.maximum(union, 1)


def best_matching(value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the one-to-one matching with the greatest total of value (S, T): the Hungarian method, O(n^3)."""
    if value.shape[0] > value.shape[1]:
        columns, rows = best_matching(value.T)
        return rows, columns
    cost = -value
    count, width = cost.shape
    of_row, of_column = np.zeros(count + 1), np.zeros(width + 1)  # potentials; index 0 is a dummy
    row_at = np.zeros(width + 1, int)  # which row, counted from 1, a column is matched with
    for row in range(1, count + 1):
        _augment(cost, row, of_row, of_column, row_at)
    columns = np.flatnonzero(row_at[1:])
    return row_at[1:][columns] - 1, columns


def _augment(cost: np.ndarray, row: int, of_row: np.ndarray, of_column: np.ndarray, row_at: np.ndarray) -> None:
    """Match one more row, along the path of least reduced cost (in place)."""
    slack = np.full(len(row_at), np.inf)
    before = np.zeros(len(row_at), int)
    visited = np.zeros(len(row_at), bool)
    row_at[0], column = row, 0
    while row_at[column]:
        visited[column] = True
        reduced = cost[row_at[column] - 1] - of_row[row_at[column]] - of_column[1:]
        closer = ~visited[1:] & (reduced < slack[1:])
        slack[1:][closer], before[1:][closer] = reduced[closer], column
        following = int(np.where(visited, np.inf, slack)[1:].argmin()) + 1
        step = slack[following]
        of_row[row_at[visited]] += step
        of_column[visited] -= step
        slack[~visited] -= step
        column = following
    while column:
        row_at[column] = row_at[before[column]]
        column = before[column]
