"""Which examples a training step sees, and the constants of each example."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
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

    latents: Tensor | MixedLatents  # Shape: (N, C, h, w), x_0
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

    @cached_property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """(h, w) of the latents of each example."""
        return tuple(tuple(latents.shape[-2:]) for latents in self.latents)

    def of_step(self, seed: int, step: int, batch_size: int, part: int = 0, parts: int = 1) -> Examples:
        """What piece `part` of `parts` pieces of a step's batch sees, `batch_size` each: a pure function, one shape for all."""
        return self[one_shape_rows(seed, step, self.shapes, batch_size * parts)[part * batch_size:(part + 1) * batch_size]]

    def in_batches(self, batch_size: int) -> Iterator[Examples]:
        """All examples once, those of one shape in pieces of at most `batch_size`."""
        for shape in dict.fromkeys(self.shapes):
            alike = [row for row, other in enumerate(self.shapes) if other == shape]
            for start in range(0, len(alike), batch_size):
                yield self[alike[start:start + batch_size]]


@dataclass(frozen=True, eq=False)
class MixedLatents:
    """Latents (C, h, w) of pictures of several shapes."""

    each: tuple[Tensor, ...]

    def __len__(self) -> int:
        return len(self.each)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.each)

    def __getitem__(self, rows: Sequence[int]) -> Tensor | MixedLatents:
        """As in a tensor (N, C, h, w), and that is what it is where all rows have one shape."""
        return joined([self.each[row] for row in rows])

    @property
    def device(self) -> Any:
        return self.each[0].device


def joined(each: Sequence[Tensor]) -> Tensor | MixedLatents:
    """Latents (C, h, w) one by one as one (N, C, h, w), or as MixedLatents where their shapes differ."""
    import torch  # only here: whoever orders rows needs none

    alike = len({latents.shape for latents in each}) == 1
    return torch.stack(list(each)) if alike else MixedLatents(tuple(each))


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


def one_shape_rows(seed: int, step: int, shapes: Sequence[Any], batch_size: int) -> list[int]:
    """As `rows`, with examples of one shape in every step. For a single shape it is `rows`.

    Of every len(shapes) consecutive steps each example leads one, in the order of `rows`; the step then takes the next
    window of those that share the leader's shape. So a shape is met as often as its share of the examples says.
    """
    if len(set(shapes)) == 1:
        return rows(seed, step, len(shapes), batch_size)
    epoch, place = divmod(step, len(shapes))
    leaders = _epoch(seed, epoch, len(shapes))
    shape = shapes[leaders[place]]
    alike = [row for row, other in enumerate(shapes) if other == shape]
    window = epoch * len(alike) + sum(shapes[leader] == shape for leader in leaders[:place])
    return [alike[row] for row in rows(seed, window, len(alike), batch_size)]


@lru_cache(maxsize=32)
def _epoch(seed: int, epoch: int, count: int) -> tuple[int, ...]:
    return tuple(np.random.default_rng((seed, epoch)).permutation(count).tolist())
