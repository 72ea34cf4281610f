"""AdamW with its moments in full precision, or in 8 bits by bitsandbytes."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from types import ModuleType

import torch
from torch import nn

from spf.config import StageConfig
from spf.errors import InvalidInput


def optimizer_for(parameters: Iterable[nn.Parameter], config: StageConfig) -> torch.optim.Optimizer:
    """The optimizer that a stage's settings ask for. Raises InvalidInput where its package is missing."""
    settings = {"lr": config.learning_rate, "betas": (config.adam_beta1, config.adam_beta2),
                "weight_decay": config.adam_weight_decay}
    if config.use_8bit_adam:
        return _bitsandbytes().optim.AdamW8bit(parameters, **settings)
    return torch.optim.AdamW(parameters, **settings, fused=True)


def require_optimizer(config: StageConfig) -> None:
    """Raises InvalidInput naming the package that the settings need and that is not there."""
    if config.use_8bit_adam:
        _bitsandbytes()


def _bitsandbytes() -> ModuleType:
    try:
        return import_module("bitsandbytes")
    except (ImportError, OSError, RuntimeError):  # also one that does not find the device's library
        raise InvalidInput("use_8bit_adam", "needs the package 'bitsandbytes', which is not installed or does not work here; "
                           "install it with 'pip install bitsandbytes', or leave this setting out") from None
