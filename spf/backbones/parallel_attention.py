"""The adapter of Appendix E: a second cross-attention in parallel to each of a U-Net's, in the manner of IP-Adapter.

The paper says no more than that. Reading: out = Attention(Q, K(E), V(E)) + Attention(Q, K'(E_tar), V'(E_tar)). The new
branch sees the target tokens only, which is the isolation that Appendix E blames for its misalignment; it shares queries
and output map. K' begins as a copy of K and V' as zero, so that training starts from what the model does without it.
A second softmax cannot be merged into the first: K' and V' are stored as tensors '<attention>.parallel.to_k.weight'.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from einops import rearrange
from torch import Tensor, nn

from spf.backbones.base import TextFeatures
from spf.errors import InvalidInput
from spf.method.attention import split_heads

_NAME = "parallel"
# diffusers hands arguments through to attention layers, and is silent about those of this name that no processor reads
_TARGET_TOKENS = "ip_adapter_masks"


class ParallelAttention(nn.Module):
    """K' and V' of one layer."""

    def __init__(self, attention: Attention):
        super().__init__()
        self.to_k, self.to_v = copy.deepcopy(attention.to_k), copy.deepcopy(attention.to_v)
        nn.init.zeros_(self.to_v.weight)


def install(denoiser: nn.Module) -> dict[str, nn.Parameter]:
    """The new parameters by name; those that are there already are kept. Raises InvalidInput for another family."""
    layers = {name: module for name, module in denoiser.named_modules()
              if isinstance(module, Attention) and module.is_cross_attention}
    if not layers:
        raise InvalidInput("trainable", "'adapter' stands beside the cross-attention of a U-Net, and this model has none; "
                           "choose 'cross' or 'lora'")
    for attention in layers.values():
        if not hasattr(attention, _NAME):
            setattr(attention, _NAME, ParallelAttention(attention))
            attention.register_forward_hook(_add_branch, with_kwargs=True)
    denoiser.has_parallel_attention = True
    return {f"{name}.{_NAME}.{part}": parameter for name, attention in layers.items()
            for part, parameter in attention.parallel.named_parameters()}


def install_for(denoiser: nn.Module, names: Iterable[str]) -> None:
    """Make place for the tensors of a customization if there are some of an adapter among them."""
    if any(f".{_NAME}." in name for name in names):
        install(denoiser)


def twin(name: str) -> str | None:
    """The tensor of the layer itself whose shape a branch's tensor of this name has; None for any other name."""
    own = name.replace(f".{_NAME}.", ".")
    return own if own != name and own.endswith((".attn2.to_k.weight", ".attn2.to_v.weight")) else None


def arguments(denoiser: nn.Module, text: TextFeatures) -> dict[str, Any] | None:
    """What a U-Net must be given as `cross_attention_kwargs`: the target tokens (B, T) of its prompts, if it has branches."""
    if not getattr(denoiser, "has_parallel_attention", False):
        return None
    return {_TARGET_TOKENS: text.target_weights.flatten(2).sum(2) > 0}


def _add_branch(attention: Attention, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
    """Behind the layer: the output map is linear, so its product with the new branch may be added after it."""
    hidden, text, tokens = args[0], kwargs["encoder_hidden_states"], kwargs[_TARGET_TOKENS]  # (B, N, C), (B, T, C), (B, T)
    asked = tokens.any(1)[:, None, None]  # without a target there is no branch
    query = F.linear(hidden, attention.to_q.weight, attention.to_q.bias)  # not by calling: captures see the layer once
    q, k, v = (split_heads(x, attention.heads) for x in (
        query, attention.parallel.to_k(text), attention.parallel.to_v(text)))  # (B, H, N | T, D)
    seen = (tokens[:, None] | ~asked)[:, None]  # (B, 1, 1, T), never empty: a softmax over nothing is not a number
    branch = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=attention.scale)
    branch = F.linear(rearrange(branch, "b h n d -> b n (h d)"), attention.to_out[0].weight)
    return output + torch.where(asked, branch, 0)
