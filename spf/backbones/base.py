"""What every model family offers: one meaning of text, features, prediction and picture, so that no loss asks which it is."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spf.config import Scheduler
from spf.method.attention import AttentionLayer
from spf.method.diffusion import Objective
from spf.method.phrases import Prompt


@dataclass(frozen=True, eq=False)
class TextFeatures:
    """Encoded prompts, and which of their tokens belong to what. P phrases, padded with zero columns.

    The T tokens are those of E encoders one after another (E = 1 in a U-Net; CLIP and T5 in an MM-DiT, whose two CLIP
    towers share their tokens), so a phrase has tokens in each of them.
    """

    embeddings: Tensor  # Shape: (B, T, C), what the denoiser is conditioned on
    base_mask: Tensor  # Shape: (B, T), 1 on word tokens of the base text (D4)
    pad_mask: Tensor  # Shape: (B, T), 1 on padding
    phrase_weights: Tensor  # Shape: (B, T, E, P), 1/len on each encoder's tokens of each phrase of the base text (D9)
    target_weights: Tensor  # Shape: (B, T, E, K), 1/len on each encoder's tokens of each target phrase
    prompts: tuple[Prompt, ...]  # as encoded, that is after trailing base phrases were dropped to fit (D3)
    pooled: Tensor | None = None  # Shape: (B, C_pooled), what an MM-DiT is also conditioned on (D21); None: nothing

    def phrase_means(self) -> tuple[Tensor, Tensor]:
        """Mean embedding of each base phrase (B, P, E C), and of all target phrases together (B, E C): D10 'contextual'.

        The means of the encoders stand side by side: their channels have nothing in common.
        """
        phrases, targets = (torch.einsum("btep,btc->bpec", weights, self.embeddings).flatten(2)
                            for weights in (self.phrase_weights, self.target_weights))
        return phrases, targets.mean(dim=1)

    def where(self, rows: Tensor, other: TextFeatures) -> TextFeatures:
        """These tokens, conditioned on `other` (one prompt, or as many as here) where `rows` (B,) is true."""
        return self.conditioned(lambda own, their: torch.where(rows.view(-1, *[1] * (own.ndim - 1)), their, own), other)

    def conditioned(self, function: Callable[..., Tensor], *others: TextFeatures) -> TextFeatures:
        """These tokens, conditioned on function(own, *others) of everything that the denoiser is given."""
        pooled = None if self.pooled is None else function(self.pooled, *(other.pooled for other in others))
        embeddings = function(self.embeddings, *(other.embeddings for other in others))
        return replace(self, embeddings=embeddings, pooled=pooled)

    def to(self, device: torch.device) -> TextFeatures:
        return self.map(lambda tensor: tensor.to(device))

    def __getitem__(self, rows: Sequence[int]) -> TextFeatures:
        index = torch.as_tensor(rows)
        kept = self.map(lambda tensor: tensor[index.to(tensor.device)])
        return TextFeatures(**{**vars(kept), "prompts": tuple(self.prompts[i] for i in rows)})

    def map(self, function) -> TextFeatures:
        return TextFeatures(**{
            name: function(value) if isinstance(value, Tensor) else value for name, value in vars(self).items()
        })


def joined(texts: Sequence[TextFeatures]) -> TextFeatures:
    """The prompts of all of them, one after another; phrases are padded to the most that one of them has."""
    tensors = {name: [getattr(text, name) for text in texts]
               for name, value in vars(texts[0]).items() if isinstance(value, Tensor)}
    for name in ("phrase_weights", "target_weights"):
        width = max(value.shape[-1] for value in tensors[name])
        tensors[name] = [F.pad(value, (0, width - value.shape[-1])) for value in tensors[name]]
    prompts = tuple(prompt for text in texts for prompt in text.prompts)
    return TextFeatures(**{name: torch.cat(values) for name, values in tensors.items()}, prompts=prompts)


@dataclass(frozen=True, eq=False)
class LayerFeatures:
    """One attention layer between text and image, seen the same way for both families.

    F of Eq. 3 / Eq. 14 is attention(text, image_key, image_value); Eq. 4 / Eq. 15 compare `image`.
    """

    name: str
    grid: tuple[int, int]  # (h, w), N = h w
    text: Tensor  # Shape: (B, H, T, D)    U-Net: K of the text    MM-DiT: Q^txt
    image_key: Tensor  # Shape: (B, H, N, D)    U-Net: Q               MM-DiT: K^vis
    image_value: Tensor  # Shape: (B, H, N, D)    U-Net: Q               MM-DiT: V^vis
    image: Tensor  # Shape: (B, H, N, D)    U-Net: Q               MM-DiT: Q^vis
    attention: AttentionLayer  # what Eq. 6 / Eq. 17 need


class Features(Protocol):
    def layers(self) -> list[LayerFeatures]:
        """The features of the last prediction made inside the `capture` block."""


Trainable = Literal["full", "cross"]


class SamplerStep(Protocol):
    prev_sample: Tensor  # the less noisy latents


class Sampler(Protocol):
    """The part of a diffusers scheduler that sampling needs. It counts its steps: one sampler serves one path."""

    timesteps: Tensor  # Shape: (S,), from noise to picture
    init_noise_sigma: float  # what unit noise is multiplied with to begin

    def step(self, model_output: Tensor, timestep: Tensor, sample: Tensor) -> SamplerStep: ...


class Backbone(Protocol):
    """A text-to-image model. Frozen apart from `trainable_parameters`; images are RGB in [-1, 1]."""

    objective: Objective
    denoiser: nn.Module
    device: torch.device  # where it computes
    default_scheduler: Scheduler  # the model's own, which `sampler` makes if none is named
    window: int  # tokens that fit the text encoder, special tokens included

    def encode_prompts(self, prompts: Sequence[Prompt]) -> TextFeatures:
        """Prompts of one batch; trailing base phrases that do not fit every encoder are dropped (D3).

        Raises InvalidInput if a target phrase alone does not fit.
        """

    def predict(self, x_t: Tensor, t: Tensor, text: TextFeatures) -> Tensor:
        """The denoiser's answer for x_t (B, C, h, w) at t (B,), of the same shape."""

    def capture(self) -> AbstractContextManager[Features]:
        """Inside the block, `predict` also leaves its attention features; nothing about the prediction changes."""

    def encode_images(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> scaled latents (B, C, h, w): x_0 of the method."""

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents -> (B, 3, H, W), with gradient to the latents; unclamped."""

    def sampler(self, num_inference_steps: int, scheduler: Scheduler | None = None,
                latent_size: tuple[int, int] | None = None) -> Sampler:
        """A fresh deterministic sampler; None is the model's own. Raises InvalidInput if it does not fit the family.

        Some schedules depend on the latents' (h, w); None means those of the model's training.
        """

    def latent_shape(self, height: int, width: int | None = None) -> tuple[int, int, int]:
        """(C, h, w) of the latents of a picture, square if no width is given.

        Raises InvalidInput if a side is no multiple of what one position of the coarsest grid covers, or too long.
        """

    def trainable_parameters(self, which: Trainable) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters that a stage updates (D2), by their name in the denoiser."""

    def networks(self) -> dict[str, nn.Module]:
        """Denoiser, autoencoder and text encoders by name."""

    def enable_gradient_checkpointing(self) -> None:
        """From now on activations of denoiser and autoencoder are computed twice instead of kept; the values stay."""

    def fork(self, own: Collection[str] | None = None) -> Backbone:
        """The same model with its own copy of the denoiser, or of those of its tensors that are named; the rest is shared."""
