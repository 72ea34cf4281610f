"""How much memory a generation takes on top of what is loaded, before it is drawn."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from spf.backbones import sizes
from spf.backbones.base import Backbone
from spf.backbones.layouts import DENOISER, read_config
from spf.backbones.loading import DTYPES
from spf.backbones.source import PUBLISHED, locate
from spf.config import REPOSITORY, GenerationRequest, ModelPreset

# Tensors of full size that are alive at the peak, which is in the decoder: 6 of 128 channels for AutoencoderKL, 3 of 32 for
# the tiny autoencoder, counted on fake tensors at 512, 768 and 1024 pixels. Allocators keep up to half as much in holes.
DECODER_TENSORS, ALLOCATOR = 6, 1.5
_WIDTHS = ("block_out_channels", "decoder_block_out_channels")


def needed_bytes(request: GenerationRequest, preset: ModelPreset, reference: Backbone | None) -> int:
    """Of tensors: weights that are not loaded (`reference` None: all), a customization's own denoiser, and one decoding.

    What libraries take at first use comes on top. Raises ModelNotFound.
    """
    width = DTYPES[preset.dtype].itemsize
    if reference is None:
        folder = locate(preset)
        folder = folder if folder.is_dir() else PUBLISHED[preset.family]
        counts = sizes.parameter_counts(folder)
        denoiser = width * counts[DENOISER[preset.family]]
        weights, vae = width * sum(counts.values()) + _clip_bytes(preset.clip), read_config(folder / "vae" / "config.json")
    else:
        denoiser, weights, vae = _bytes(reference.denoiser), 0, reference.networks()["vae"].config
    own = 0 if request.customization is None else denoiser
    channels = next(vae[name][0] for name in _WIDTHS if vae.get(name))
    pixels = (request.height or preset.resolution) * (request.width or preset.resolution)
    return round(weights + own + ALLOCATOR * DECODER_TENSORS * channels * width * pixels)


def _bytes(module: nn.Module) -> int:
    return sum(parameter.numel() * parameter.itemsize for parameter in module.parameters())


def _clip_bytes(clip: str) -> int:
    """Of an open_clip folder, as it lies there, in fp32; of a published one, ViT-L-14."""
    files = list((REPOSITORY / Path(clip).expanduser()).glob("*.safetensors"))
    return 2 * sum(file.stat().st_size for file in files) if files else sizes.CLIP_BYTES
