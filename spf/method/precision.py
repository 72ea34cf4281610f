"""The one rule on precision that every module here follows."""

import torch
from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """x in float32, or in float64 if it is that already: what losses and maps are computed in under mixed precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
