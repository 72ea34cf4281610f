"""What every metric shares: pairs in, one row of numbers per pair out, a statistic over the rows, and an interval.

A metric is an extractor (pairs -> rows) and a statistic (rows -> number). A pair that an extractor cannot measure keeps
its row, as NaN with the reason in words: it is counted and reported, never dropped silently and never a zero.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from torch import Tensor

from spf.errors import SpfError

NOT_A_NUMBER = "the value is not a number"


class MetricUnavailable(SpfError):
    """A metric cannot run here, for example because a weights file is missing; the message names it and its source."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """B originals and customized portraits of the same seeds, and what was asked. Pictures are RGB in [-1, 1]."""

    original: Tensor  # Shape: (B, 3, H, W)
    customized: Tensor  # Shape: (B, 3, H, W)
    target_texts: tuple[str, ...]  # y_tar
    prompts: tuple[str, ...]  # [y_base, y_tar]
    targets: tuple[str, ...]  # what the reader calls the target
    concerned: tuple[frozenset[str], ...]  # attributes that the target changes or hides
    regions: np.ndarray  # Shape: (B, H, W) bool, where the target may act

    def __len__(self) -> int:
        return len(self.targets)


@dataclass(frozen=True, eq=False)
class Rows:
    """What an extractor found: one row per pair, and for each pair why it could not be measured ('' where it could)."""

    values: np.ndarray  # Shape: (B, K) float64
    problems: tuple[str, ...]

    @classmethod
    def of(cls, values, problems: Sequence[str] | None = None) -> Rows:
        """`values` (B,) or (B, K); without a reason of its own, a row that is not all numbers is named as such."""
        array = np.asarray(values, np.float64)
        array = array[:, None] if array.ndim == 1 else array
        given = problems or [""] * len(array)
        named = tuple(reason or ("" if np.isfinite(row).all() else NOT_A_NUMBER)
                      for row, reason in zip(array, given, strict=True))
        return cls(array, named)

    @classmethod
    def joined(cls, parts: Sequence[Rows]) -> Rows:
        return cls(np.concatenate([part.values for part in parts]), tuple(p for part in parts for p in part.problems))

    @property
    def usable(self) -> np.ndarray:
        """(B,) bool"""
        return np.array([not problem for problem in self.problems], bool)


class Extractor(Protocol):
    """The half of a metric that looks at pictures. `name` says which networks and weights: part of every number."""

    name: str

    def __call__(self, pairs: Pairs) -> Rows: ...


class PictureFeatures(Protocol):
    """A feature extractor of single pictures that owns its preprocessing."""

    name: str

    def __call__(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) RGB in [-1, 1] -> (B, F)"""


def mean(rows: np.ndarray) -> float:
    """Mean over pairs of the first (and only) column."""
    return float(rows[:, 0].mean())


@dataclass(frozen=True, eq=False)
class Metric:
    """One column of a table."""

    key: str
    title: str
    better: str  # "up" or "down"
    extractor: Extractor
    statistic: Callable[[np.ndarray], float] = mean
    scale: float = 1.0  # 100 shows a share in per cent
    minimum: int = 1  # pairs that the statistic needs
    resamples: int | None = None  # None: as many as asked for; fewer where one evaluation is dear
    biased: bool = False  # whether doubled pairs push the statistic to one side


@dataclass(frozen=True)
class Summary:
    """A number with its 95 % interval; `value` is None where there is none, and `note` then says why."""

    value: float | None
    low: float | None = None
    high: float | None = None
    pairs: int = 0  # that it rests on
    excluded: dict[str, int] = field(default_factory=dict)  # reason -> pairs
    note: str = ""


def summarise(metric: Metric, rows: Rows, resamples: int, seed: int = 0) -> Summary:
    """The metric's statistic over all usable rows, with a bootstrap interval over pairs."""
    usable = rows.values[rows.usable]
    excluded = dict(Counter(problem for problem in rows.problems if problem))
    if len(usable) < metric.minimum:
        note = f"needs {metric.minimum:,} pairs and has {len(usable):,}"
        return Summary(None, pairs=len(usable), excluded=excluded, note=note)
    value = metric.statistic(usable)
    if not np.isfinite(value):
        return Summary(None, pairs=len(usable), excluded=excluded, note=NOT_A_NUMBER)
    low, high = bootstrap_interval(usable, metric.statistic, metric.resamples or resamples, metric.biased, seed)
    return Summary(*(metric.scale * number for number in (value, low, high)), len(usable), excluded)


def bootstrap_interval(rows: np.ndarray, statistic: Callable[[np.ndarray], float], resamples: int, biased: bool = False,
                       seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval from resampling rows (pairs, so both pictures of a pair stay together).

    With `biased` it is shifted so that the mean of the resamples lies at the statistic: a resample holds pairs twice, which
    makes it look less spread than the sample is and pushes a Frechet distance up. NaN if a resample has no value.
    """
    rng = np.random.default_rng(seed)
    drawn = np.array([statistic(rows[rng.integers(len(rows), size=len(rows))]) for _ in range(resamples)])
    if not np.isfinite(drawn).all():
        return float("nan"), float("nan")
    low, high = np.percentile(drawn, [2.5, 97.5]) + (statistic(rows) - drawn.mean() if biased else 0)
    return float(low), float(high)
