"""What both families share: a denoiser that works on the latents of an autoencoder."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator
from itertools import chain
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
    device: torch.device  # where it computes; a part that is not in use may wait elsewhere
    cross_projections: ClassVar[tuple[str, ...]]  # parts of the names of the parameters that "cross" updates (D2)

    @property
    def dtype(self) -> torch.dtype:
        """In which the denoiser computes; what goes into `predict` and comes out of it is float32.

        diffusers' own property looks through all parameters: 2 ms, at every step of a denoiser that takes 30.
        """
        return next(self.denoiser.parameters()).dtype

    def networks(self) -> dict[str, nn.Module]:
        """Every network by its field's name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, nn.Module)}

    def enable_gradient_checkpointing(self) -> None:
        """From now on activations of denoiser and autoencoder are computed twice instead of kept; the values stay."""
        self.denoiser.enable_gradient_checkpointing()
        self.vae.enable_gradient_checkpointing()

    def _own_denoiser(self, own: Collection[str] | None) -> nn.Module:
        """A copy that shares every tensor not named in `own`; None copies all."""
        tensors = chain(self.denoiser.named_parameters(), self.denoiser.named_buffers())
        shared = {} if own is None else {id(tensor): tensor for name, tensor in tensors if name not in own}
        return copy.deepcopy(self.denoiser, shared)

    def encode_images(self, images: Tensor) -> Tensor:
        return autoencoder.encode(self.vae, images)

    def decode(self, latents: Tensor) -> Tensor:
        return autoencoder.decode(self.vae, latents)

    def trainable_parameters(self, which: Trainable) -> Iterator[tuple[str, nn.Parameter]]:
        for name, parameter in self.denoiser.named_parameters():
            if which == "full" or any(part in name for part in self.cross_projections):
                yield name, parameter
