"""Pictures to scaled latents and back, for the autoencoders of both families."""

from __future__ import annotations

import json
from pathlib import Path

from diffusers import AutoencoderKL, AutoencoderTiny
from torch import Tensor

Autoencoder = AutoencoderKL | AutoencoderTiny


def scale_factor(vae: Autoencoder) -> int:
    """Pixels per latent position, along each side."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


def encode(vae: Autoencoder, images: Tensor) -> Tensor:
    """(B, 3, H, W) in [-1, 1] -> (z - shift) * scale, (B, C, h, w); z is the mode of the posterior."""
    encoded = vae.encode(images.to(vae.dtype))
    latents = encoded.latents if isinstance(vae, AutoencoderTiny) else encoded.latent_dist.mode()
    return (latents.to(images.dtype) - _shift(vae)) * vae.config.scaling_factor


def decode(vae: Autoencoder, latents: Tensor) -> Tensor:
    """The inverse of `encode`, unclamped, with gradient to the latents."""
    z = latents / vae.config.scaling_factor + _shift(vae)
    return vae.decode(z.to(vae.dtype)).sample.to(latents.dtype)


def _shift(vae: Autoencoder) -> float:
    """Stable Diffusion 1.x has none, which its configuration says as null."""
    return vae.config.shift_factor or 0.0


def class_of(folder: Path) -> type[AutoencoderKL] | type[AutoencoderTiny]:
    """The class that the autoencoder saved in a folder belongs to. KeyError if it is neither."""
    name = json.loads((folder / "config.json").read_text(encoding="utf-8"))["_class_name"]
    return {"AutoencoderTiny": AutoencoderTiny, "AutoencoderKL": AutoencoderKL}[name]
