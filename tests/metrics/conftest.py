"""Pairs of random pictures, and what was asked for in them."""

import numpy as np
import pytest
import torch

from spf.metrics.base import Pairs


@pytest.fixture
def make_pairs():
    def make(count, same=False, size=16, seed=0):
        generator = torch.Generator().manual_seed(seed)
        original, customized = torch.rand(2, count, 3, size, size, generator=generator) * 2 - 1
        region = np.zeros((count, size, size), bool)
        region[:, : size // 2] = True
        return Pairs(original, original.clone() if same else customized, ("a winter hat",) * count,
                     ("a person, a winter hat",) * count, ("winter-hat",) * count,
                     (frozenset({"hair"}),) * count, region)

    return make
