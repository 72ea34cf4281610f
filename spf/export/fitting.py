"""Whether the tensors of a customization that comes in fit the model that it says it is of."""

from __future__ import annotations

import torch
from safetensors.torch import load_file
from torch import Tensor

from spf.backbones import parallel_attention
from spf.backbones.headers import FLOATS, Header
from spf.backbones.loading import denoiser_state, load_backbone
from spf.config import ModelPreset
from spf.errors import CustomizationError


def tensors_of(header: Header, preset: ModelPreset) -> dict[str, Tensor]:
    """Changed tensors of a file as they are in the customized denoiser. Raises CustomizationError if one does not fit."""
    own = denoiser_state(preset)
    for name, facts in header.tensors.items():
        fitting = own.get(parallel_attention.twin(name) or name)  # a branch of an adapter is shaped as what it stands beside
        if fitting is None or tuple(fitting.shape) != facts.shape or facts.dtype not in FLOATS:
            raise CustomizationError(f"customization: its tensor '{name[:80]}' {facts.shape} {facts.dtype} does not fit "
                                     f"'{preset.name}'; export it again.")
    tensors = {name: value.float() for name, value in load_file(header.path).items()}
    if bad := [name for name, value in tensors.items() if not torch.isfinite(value).all()]:
        raise CustomizationError(
            f"customization: tensor '{bad[0]}' of {header.path.name} holds values that are not numbers; export it again.")
    if header.metadata.get("spf_format") != "delta":
        return tensors
    base = load_backbone(preset).denoiser.state_dict()
    return {name: base[name].float() + value if name in base else value for name, value in tensors.items()}
