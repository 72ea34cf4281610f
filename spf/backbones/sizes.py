"""How large the published models are, from their architectures on the meta device: no file is read, no network asked."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, SD3Transformer2DModel, UNet2DConditionModel
from torch import nn
from transformers import AutoConfig, CLIPTextModel, CLIPTextModelWithProjection, T5EncoderModel

from spf.backbones.layouts import read_architecture
from spf.backbones.source import PUBLISHED
from spf.config import ModelPreset
from spf.errors import ModelNotFound

_CLASSES = {kind.__name__: kind for kind in (
    UNet2DConditionModel, SD3Transformer2DModel, AutoencoderKL, AutoencoderTiny, CLIPTextModel, CLIPTextModelWithProjection,
    T5EncoderModel)}
# Bytes per parameter of the published files. Stable Diffusion 3.5 is published in bf16 and its text encoders in fp16.
_PUBLISHED_BYTES = {"unet": 4, "mmdit": 2}
CLIP_BYTES = 4 * 427_616_513  # of ViT-L-14, published in fp32


def published_bytes(preset: ModelPreset) -> int:
    """Bytes that 'download' would fetch for every component of a published model."""
    each = 2 if preset.variant == "fp16" else _PUBLISHED_BYTES[preset.family]
    return each * sum(parameter_counts(PUBLISHED[preset.family]).values())


def parameter_counts(folder: Path) -> dict[str, int]:
    """Parameters of every network that a folder of component configurations describes, by component."""
    tied = "encoder.embed_tokens.weight"  # T5's one embedding under its second name
    return {part: sum(value.numel() for name, value in empty_component(folder / part).named_parameters() if name != tied)
            for part in networks(folder)}


def networks(folder: Path) -> list[str]:
    """Names of the components that have weights."""
    return [path.parent.name for path in sorted(folder.glob("*/config.json"))
            if path.parent.name.startswith(("unet", "transformer", "vae", "text_encoder"))]


@lru_cache(maxsize=16)
def empty_component(folder: Path) -> nn.Module:
    """The network that a component's folder describes, on the meta device; everyone gets the same one."""
    return unshared(folder)


def unshared(folder: Path) -> nn.Module:
    """The network that a component's folder describes, on the meta device, for the caller to change."""
    with torch.device("meta"):
        return _component(folder)


def _component(folder: Path) -> nn.Module:
    config = read_architecture(folder / "config.json")
    kind = config.get("_class_name") or (config.get("architectures") or [None])[0]
    if kind not in _CLASSES:
        raise ModelNotFound(f"model: {folder} holds a '{kind}', which does not run here; choose another model.")
    if "_class_name" in config:
        return _CLASSES[kind].from_config(config)
    return _CLASSES[kind](AutoConfig.from_pretrained(folder))


def tiny_autoencoder(latent_channels: int) -> nn.Module:
    """The published tiny autoencoder (TAESD, TAESD3) for latents of so many channels, likewise."""
    with torch.device("meta"):
        return AutoencoderTiny(latent_channels=latent_channels)
