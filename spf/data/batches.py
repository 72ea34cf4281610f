"""Which examples a training step sees, and the constants of each example."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

from spf.data.records import Record

if TYPE_CHECKING:
    from torch import Tensor


class Texts(Protocol):
    """The part of backbones.base.TextFeatures that is used here."""

    def __getitem__(self, rows: Sequence[int]) -> Self:
        """The same features for some of the prompts."""

    def to(self, device: Any) -> Self:
        """The same features on another device."""


@dataclass(frozen=True, eq=False)
class Examples:
    """What stays the same for a picture during a whole training run, computed once. N examples, P phrases."""

    latents: Tensor  # Shape: (N, C, h, w), x_0
    full: Texts  # N prompts [y_base, y_tar] of Eq. 2
    base: Texts  # N prompts y_base
    gamma: Tensor  # Shape: (N, P), relevance of each base phrase to the target, Eq. 7
    target_embedding: Tensor  # Shape: (N, D), CLIP embedding of the target text
    image_embedding: Tensor  # Shape: (N, D), CLIP embedding of the picture
    records: tuple[Record, ...]  # N

    def __post_init__(self) -> None:
        for name in ("latents", "gamma", "target_embedding", "image_embedding"):
            if len(getattr(self, name)) != len(self.records):
                raise ValueError(f"{name} has {len(getattr(self, name))} rows for {len(self.records)} records")

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, rows: Sequence[int]) -> Examples:
        """The examples of one batch, in the order of `rows`; a row may repeat."""
        rows = list(rows)
        return Examples(
            self.latents[rows], self.full[rows], self.base[rows], self.gamma[rows], self.target_embedding[rows],
            self.image_embedding[rows], tuple(self.records[row] for row in rows))


def rows(seed: int, step: int, count: int, batch_size: int) -> list[int]:
    """The examples of step `step` (from 0): `batch_size` numbers in [0, count). A pure function of its arguments.

    The steps are consecutive windows of an endless stream of epochs, each a permutation of all `count` examples, so a
    resumed run needs no state, and a batch that reaches the end of an epoch goes on in the next. Of W devices,
    device r takes the window `step * W + r`. ValueError for a negative seed or step, or sizes below 1.
    """
    if min(seed, step) < 0 or min(count, batch_size) < 1:
        raise ValueError(f"rows(seed={seed}, step={step}, count={count}, batch_size={batch_size}) is not defined")
    positions = range(step * batch_size, (step + 1) * batch_size)
    return [_epoch(seed, position // count, count)[position % count] for position in positions]


@lru_cache(maxsize=4)
def _epoch(seed: int, epoch: int, count: int) -> tuple[int, ...]:
    return tuple(np.random.default_rng((seed, epoch)).permutation(count).tolist())
