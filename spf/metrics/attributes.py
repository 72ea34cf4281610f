"""What only a world with known attributes can tell: which ones stayed as they were, and whether the target is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from spf.metrics.base import Metric, Pairs, Rows

ALL_CONCERNED = "the target concerns every attribute"
PRESENT = 0.5  # probability from which a target counts as shown


class AttributeReader(Protocol):
    name: str
    attributes: Sequence[str]  # those that a portrait always has

    def read(self, images: Tensor) -> Mapping[str, Sequence[str]]:
        """(B, 3, H, W) RGB in [-1, 1] -> per attribute the B values seen"""

    def target_probability(self, images: Tensor, targets: Sequence[str]) -> Tensor:
        """How likely each picture shows its target: (B,) in [0, 1]"""


class Untouched:
    """Share of the attributes that the target does not concern whose value is still the same."""

    def __init__(self, reader: AttributeReader):
        self.reader, self.name = reader, reader.name

    @torch.no_grad()
    def __call__(self, pairs: Pairs) -> Rows:
        kept = same_values(self.reader.read(pairs.original), self.reader.read(pairs.customized), self.reader.attributes)
        counts = np.array([[name not in concerned for name in self.reader.attributes] for concerned in pairs.concerned])
        total = counts.sum(axis=1)
        shares = np.where(total > 0, (kept & counts).sum(axis=1) / np.maximum(total, 1), np.nan)
        return Rows.of(shares, ["" if number else ALL_CONCERNED for number in total])


class KeptAttribute:
    """1 where one attribute is still the same, 0 where not."""

    def __init__(self, reader: AttributeReader, attribute: str):
        self.reader, self.attribute, self.name = reader, attribute, reader.name

    @torch.no_grad()
    def __call__(self, pairs: Pairs) -> Rows:
        kept = same_values(self.reader.read(pairs.original), self.reader.read(pairs.customized), [self.attribute])[:, 0]
        concerned = [self.attribute in names for names in pairs.concerned]
        return Rows.of(np.where(concerned, np.nan, kept), ["the target concerns it" if c else "" for c in concerned])


class Response:
    """1 where the customized portrait shows its target, 0 where not."""

    def __init__(self, reader: AttributeReader):
        self.reader, self.name = reader, reader.name

    @torch.no_grad()
    def __call__(self, pairs: Pairs) -> Rows:
        seen = self.reader.target_probability(pairs.customized, pairs.targets).double().cpu().numpy()
        return Rows.of(np.where(np.isnan(seen), np.nan, seen >= PRESENT))


def same_values(a: Mapping[str, Sequence[str]], b: Mapping[str, Sequence[str]], attributes: Sequence[str]) -> np.ndarray:
    """(B, A) bool: whether two readings of B pictures agree on each attribute."""
    return np.array([np.asarray(a[name]) == np.asarray(b[name]) for name in attributes]).T


def metrics(reader: AttributeReader) -> list[Metric]:
    return [
        Metric("untouched", "Untouched attributes kept, %", "up", Untouched(reader), scale=100),
        Metric("response", "Target response, %", "up", Response(reader), scale=100),
        *(Metric(f"kept_{name}", f"{name.replace('_', ' ')} kept, %", "up", KeptAttribute(reader, name), scale=100)
          for name in reader.attributes),
    ]
