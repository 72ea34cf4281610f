"""How much memory a generation takes on top of what is loaded, before it is drawn."""

from __future__ import annotations

from pathlib import Path

import psutil
import torch
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
# Likewise in the denoiser, for each row of a pass: tensors as large as its finest layer's, or as the joint sequence of an
# MM-DiT; and what the maps' features of a U-Net add.
DENOISER_TENSORS, UNET_FEATURES = 26, 10
MOST_AT_ONCE = 16  # seeds in one batch; a device is busy long before that
CGROUP = Path("/sys/fs/cgroup")
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


def seeds_at_once(request: GenerationRequest, reference: Backbone, resolution: int, free: int) -> int:
    """How many seeds of a request are drawn in one batch: as many as half of the `free` bytes holds, at least one."""
    return max(1, min(request.count, MOST_AT_ONCE, free // 2 // seed_bytes(request, reference, resolution)))


def seed_bytes(request: GenerationRequest, reference: Backbone, resolution: int) -> int:
    """Of what the denoiser holds at its peak for one seed of a batch: two rows of a guided pass, and where maps are drawn the
    features of three rows, which wait for the maps; of four where held places heal at such a step."""
    config = reference.denoiser.config
    h, w = reference.latent_shape(request.height or resolution, request.width or resolution)[1:]
    if "block_out_channels" in config:
        tensor = config.block_out_channels[0] * h * w
        kept = UNET_FEATURES * tensor
    else:
        channels = config.num_attention_heads * config.attention_head_dim
        positions, tokens = h * w // config.patch_size ** 2, reference.window + reference.t5_window
        tensor = channels * (positions + tokens)
        kept = config.num_layers * channels * (3 * positions + 2 * tokens)  # three of the image, two of the text in every block
    rows = 4 if request.hold else 3 if request.map_steps else 0
    elements = 2 * DENOISER_TENSORS * tensor + rows * kept
    return round(ALLOCATOR * elements * reference.denoiser.dtype.itemsize)


def free_bytes(device: torch.device) -> int:
    """Memory that this process could still take: of the accelerator, else of the machine or of the container it is in."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    available = psutil.virtual_memory().available
    limit = _cgroup_free()
    return available if limit is None else min(available, limit)


def _cgroup_free() -> int | None:
    """What the container's limit leaves, file caches counted as free; None without a limit."""
    try:
        limit = int((CGROUP / "memory.max").read_text())
        used = int((CGROUP / "memory.current").read_text())
        cached = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())["inactive_file"]
    except (OSError, ValueError, KeyError):  # "max", or another version of control groups
        return None
    return limit - used + int(cached)


def _bytes(module: nn.Module) -> int:
    return sum(parameter.numel() * parameter.itemsize for parameter in module.parameters())


def _clip_bytes(clip: str) -> int:
    """Of an open_clip folder, as it lies there, in fp32; of a published one, ViT-L-14."""
    files = list((REPOSITORY / Path(clip).expanduser()).glob("*.safetensors"))
    return 2 * sum(file.stat().st_size for file in files) if files else sizes.CLIP_BYTES
