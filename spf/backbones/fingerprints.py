"""The identity of the frozen parts that encode pictures and texts: what encoded is theirs only as long as they stay the same."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerFast

from spf.backbones.base import Backbone


@dataclass(frozen=True)
class Fingerprints:
    """SHA-256 of what turns pictures into latents, and of what turns prompts into text features."""

    pictures: str
    texts: str


def backbone_fingerprints(backbone: Backbone) -> Fingerprints:
    """By content, so a model is recognised wherever it lies, and a part that was exchanged is noticed.

    The denoiser encodes nothing and does not count: a customization shares the encoded pictures of its model.
    """
    parts = {name: part for name, part in vars(backbone).items() if part is not backbone.denoiser}
    texts = hashlib.sha256(type(backbone).__name__.encode())
    for name, part in sorted(parts.items()):
        if isinstance(part, nn.Module) and name != "vae":
            texts.update(f"{name} {module_fingerprint(part)}".encode())
        elif isinstance(part, PreTrainedTokenizerFast):
            texts.update(f"{name} {part.model_max_length} {_vocabulary(part)}".encode())
    return Fingerprints(module_fingerprint(parts["vae"]), texts.hexdigest())


def _vocabulary(tokenizer: PreTrainedTokenizerFast) -> str:
    """All that it does to a text; padding and truncation are left out, since every call sets them anew."""
    values = json.loads(tokenizer.backend_tokenizer.to_str())
    return json.dumps({name: value for name, value in values.items() if name not in ("padding", "truncation")})


def module_fingerprint(module: nn.Module) -> str:
    """SHA-256 of a network's configuration and of all its values, as they are in memory."""
    total = hashlib.sha256(json.dumps(_settings(module), sort_keys=True, default=str).encode())
    for name, value in module.state_dict().items():
        total.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        total.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def _settings(module: nn.Module) -> dict[str, Any]:
    """The configuration (scaling factors are in it) without where it was loaded from."""
    config = getattr(module, "config", {})
    values = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    return {name: value for name, value in values.items() if not name.startswith("_")}
