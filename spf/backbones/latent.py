"""What both families share: a denoiser that works on the latents of an autoencoder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn

from spf.backbones import autoencoder
from spf.backbones.autoencoder import Autoencoder
from spf.backbones.base import Trainable


class LatentDiffusion:
    """The part of backbones.base.Backbone that is the same for every family."""

    denoiser: nn.Module
    vae: Autoencoder
    cross_projections: ClassVar[tuple[str, ...]]  # parts of the names of the parameters that "cross" updates (D2)

    @property
    def device(self) -> torch.device:
        return self.denoiser.device

    def encode_images(self, images: Tensor) -> Tensor:
        return autoencoder.encode(self.vae, images)

    def decode(self, latents: Tensor) -> Tensor:
        return autoencoder.decode(self.vae, latents)

    def trainable_parameters(self, which: Trainable) -> Iterator[tuple[str, nn.Parameter]]:
        for name, parameter in self.denoiser.named_parameters():
            if which == "full" or any(part in name for part in self.cross_projections):
                yield name, parameter
