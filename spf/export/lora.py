"""A customization as a LoRA: the best approximation of its changes by matrices of low rank (Eckart-Young, by SVD)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

_SVD_EXACT_UP_TO = 768  # rows or columns; larger matrices get a randomised SVD, whose error is measured all the same
_OVERSAMPLING, _POWER_ITERATIONS = 16, 4


@dataclass(frozen=True, eq=False)
class LowRank:
    """delta = up @ down for one weight; of a convolution `down` is a kernel and `up` a 1x1 convolution."""

    down: Tensor  # Shape: (r, in) or (r, in, k, k)
    up: Tensor  # Shape: (out, r) or (out, r, 1, 1)

    def delta(self) -> Tensor:
        """(out, in) or (out, in, k, k), float32."""
        product = self.up.float().flatten(1) @ self.down.float().flatten(1)
        return product.reshape(self.up.shape[0], *self.down.shape[1:])


def approximate(deltas: Mapping[str, Tensor], rank: int, dtype: torch.dtype) -> tuple[dict[str, LowRank], float]:
    """Factors by module name, and the relative error ||delta - LoRA|| / ||delta|| over everything that changed.

    Biases and normalisations have no place in a LoRA: what they changed counts as error.
    """
    factors: dict[str, LowRank] = {}
    lost = total = 0.0
    for name, delta in deltas.items():
        total += float(delta.square().sum())
        if name.endswith(".weight") and delta.ndim in (2, 4):
            factor = decompose(delta, rank, dtype)
            factors[name.removesuffix(".weight")] = factor
            lost += float((delta - factor.delta()).square().sum())
        else:
            lost += float(delta.square().sum())
    return factors, math.sqrt(lost / total) if total else 0.0


def decompose(delta: Tensor, rank: int, dtype: torch.dtype) -> LowRank:
    """The `rank` largest singular values of a weight's change, shared evenly between both factors."""
    matrix = delta.float().flatten(1)
    rank = min(rank, *matrix.shape)
    if min(matrix.shape) <= _SVD_EXACT_UP_TO:
        u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    else:
        u, s, v = torch.svd_lowrank(matrix, q=min(rank + _OVERSAMPLING, *matrix.shape), niter=_POWER_ITERATIONS)
        vh = v.T
    root = s[:rank].sqrt()
    down, up = root[:, None] * vh[:rank], u[:, :rank] * root
    if delta.ndim == 4:
        down, up = down.reshape(rank, *delta.shape[1:]), up[:, :, None, None]
    return LowRank(down.to(dtype).contiguous(), up.to(dtype).contiguous())


def kohya_keys(factors: Mapping[str, LowRank]) -> dict[str, Tensor]:
    """As kohya's tools write LoRAs of a U-Net; alpha equals the rank, so nothing is scaled."""
    tensors: dict[str, Tensor] = {}
    for module, factor in factors.items():
        name = f"lora_unet_{module.replace('.', '_')}"
        tensors |= {f"{name}.lora_down.weight": factor.down, f"{name}.lora_up.weight": factor.up,
                    f"{name}.alpha": torch.tensor(float(factor.down.shape[0]), dtype=factor.down.dtype)}
    return tensors


def diffusers_keys(factors: Mapping[str, LowRank], part: str) -> dict[str, Tensor]:
    """As diffusers and peft write them; `part` is 'unet' or 'transformer'."""
    tensors: dict[str, Tensor] = {}
    for module, factor in factors.items():
        tensors |= {f"{part}.{module}.lora_A.weight": factor.down, f"{part}.{module}.lora_B.weight": factor.up}
    return tensors
