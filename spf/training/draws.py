"""Random numbers of a step's whole batch, whichever device draws them, so that a seed means the same on one or on many."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class Draws(torch.Generator):
    """A CPU generator that `part` of `parts` equal pieces of one batch draw from, each in the same state."""

    part: int = 0
    parts: int = 1

    @classmethod
    def of_step(cls, seed: int, step: int, part: int = 0, parts: int = 1) -> Draws:
        """The generator of a step: a pure function of its arguments."""
        draws = cls()
        draws.manual_seed((seed * 1_000_003 + step) % 2**63)
        draws.part, draws.parts = part, parts
        return draws


def own_rows(draw: Callable[[int], Tensor], count: int, generator: torch.Generator) -> Tensor:
    """`count` rows: this piece's share of what `draw(rows)` draws for the whole batch. A plain Generator draws its own."""
    part, parts = getattr(generator, "part", 0), getattr(generator, "parts", 1)
    return draw(count * parts)[part * count:(part + 1) * count]
