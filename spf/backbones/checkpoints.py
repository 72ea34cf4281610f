"""Customizations of a model: found, checked to belong to it, applied, written. Files are written beside and renamed."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from spf.backbones import parallel_attention
from spf.backbones.base import Backbone
from spf.backbones.loading import load_backbone
from spf.backbones.source import customization, denoiser_hash
from spf.config import home
from spf.errors import CustomizationError
from spf.files import replace_folder, save_tensors
from spf.library import CARD, WEIGHTS, Customization, CustomizationCard, customizations

__all__ = ["Customization", "CustomizationCard", "apply", "changed_tensors", "customization", "customizations", "denoiser_hash",
           "home", "load_backbone", "mixed", "save_customization"]


def mixed(reference: Backbone, parts: Sequence[tuple[Customization, float]]) -> dict[str, Tensor]:
    """Tensors of base + sum of w (customized - base) over several customizations of one model (task arithmetic), float32.

    One of weight 1 is exactly itself. Raises CustomizationError if a tensor does not fit the model.
    """
    own, total = reference.denoiser.state_dict(), {}
    for part, weight in parts:
        tensors = part.tensors()
        if len(parts) == 1 and weight == 1:
            return tensors
        for name, value in tensors.items():
            if name not in own or own[name].shape != value.shape:
                raise CustomizationError(
                    f"customization: tensor '{name}' of '{part.card.name}' cannot be mixed or weighted; use it alone.")
            base = own[name].float()
            total[name] = total.get(name, base) + weight * (value.to(base.device) - base)
    return total


def apply(backbone: Backbone, tensors: Mapping[str, Tensor]) -> None:
    """Put changed tensors into a backbone's denoiser, in place. Raises CustomizationError if they do not fit."""
    parallel_attention.install_for(backbone.denoiser, tensors)
    own = backbone.denoiser.state_dict()
    wrong = [name for name, value in tensors.items() if name not in own or own[name].shape != value.shape]
    if wrong:
        raise CustomizationError(
            f"customization: its tensor '{wrong[0]}' does not fit this model; choose the model it was trained on.")
    with torch.no_grad():
        for name, value in tensors.items():
            own[name].copy_(value)


def save_customization(card: CustomizationCard, tensors: Mapping[str, Tensor], root: Path | None = None) -> Customization:
    """Write a customization (fp16) as one folder that appears complete or not at all, replacing one of that name.

    Raises CustomizationError if a value is not finite in fp16, OSError if the disk is full; what was there is kept.
    """
    root = root or home() / "customizations"
    target, staged = root / card.name, root / f".{card.name}.partial"
    weights = {name: value.detach().half().cpu().contiguous() for name, value in tensors.items()}
    if bad := [name for name, value in weights.items() if not torch.isfinite(value).all()]:
        raise CustomizationError(
            f"customization: '{card.name}' would hold values that are not numbers ({bad[0]}); lower the learning rate.")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    try:
        save_tensors(weights, staged / WEIGHTS, {"spf_customization": card.model_dump_json()})
        (staged / CARD).write_text(card.model_dump_json(indent=2), encoding="utf-8")
        replace_folder(staged, target)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return Customization(card, target)


def changed_tensors(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those tensors of `after` that differ from `before` or are not in it."""
    return {name: value for name, value in after.items()
            if name not in before or not torch.equal(value.cpu(), before[name].cpu())}
