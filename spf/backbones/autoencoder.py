"""Pictures to scaled latents and back, for the autoencoders of both families."""

from __future__ import annotations

from diffusers import AutoencoderKL, AutoencoderTiny
from torch import Tensor

from spf.errors import InvalidInput

Autoencoder = AutoencoderKL | AutoencoderTiny


def is_tiny(vae: Autoencoder) -> bool:
    """Whether its decoder is small enough to be called at every training step."""
    return isinstance(vae, AutoencoderTiny)


def scale_factor(vae: Autoencoder) -> int:
    """Pixels per latent position, along each side."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


def latent_size(vae: Autoencoder, height: int, width: int, patch_size: int = 1, limit: int | None = None) -> tuple[int, int]:
    """(h, w) of the latents of a picture. Raises InvalidInput for a side that is no multiple, or longer than `limit` allows."""
    factor = scale_factor(vae)
    step = factor * patch_size
    for name, side in (("height", height), ("width", width)):
        if side < step or side % step:
            near = max(round(side / step), 1) * step
            raise InvalidInput(name, f"must be a multiple of {step} for this model, for example {near}")
        if limit is not None and side > limit * factor:
            raise InvalidInput(name, f"this model draws at most {limit * factor} pixels along a side")
    return height // factor, width // factor


def encode(vae: Autoencoder, images: Tensor) -> Tensor:
    """(B, 3, H, W) in [-1, 1] -> (z - shift) * scale, (B, C, h, w); z is the mode of the posterior."""
    encoded = vae.encode(images.to(vae.dtype))
    latents = encoded.latents if is_tiny(vae) else encoded.latent_dist.mode()
    return (latents.to(images.dtype) - _shift(vae)) * vae.config.scaling_factor


def decode(vae: Autoencoder, latents: Tensor) -> Tensor:
    """The inverse of `encode`, unclamped, with gradient to the latents."""
    z = latents / vae.config.scaling_factor + _shift(vae)
    return vae.decode(z.to(vae.dtype)).sample.to(latents.dtype)


def _shift(vae: Autoencoder) -> float:
    """Stable Diffusion 1.x has none, which its configuration says as null."""
    return vae.config.shift_factor or 0.0
