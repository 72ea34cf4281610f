"""Guided sampling in batches: one seed per picture, so a picture is the same whichever batch it is drawn in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from spf.backbones.base import Backbone, TextFeatures
from spf.config import EvaluationConfig, ModelPreset
from spf.generation.guide import Guide
from spf.method.phrases import Prompt, join_prompt


@dataclass(frozen=True)
class Sampling:
    """Everything besides text and seed that a picture depends on."""

    resolution: int
    num_inference_steps: int
    guidance_scale: float

    @classmethod
    def of(cls, config: EvaluationConfig, preset: ModelPreset) -> Sampling:
        return cls(preset.resolution, config.num_inference_steps or preset.num_inference_steps,
                   config.guidance_scale or preset.guidance_scale)


def initial_latents(backbone: Backbone, seeds: Sequence[int], resolution: int) -> Tensor:
    """(B, C, h, w) noise, as a single generation with that seed begins with; drawn on the CPU."""
    shape = backbone.latent_shape(resolution)
    return torch.cat([torch.randn(1, *shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


@torch.inference_mode()
def sample(backbone: Backbone, prompts: Sequence[Prompt], seeds: Sequence[int], how: Sampling) -> Tensor:
    """Pictures (B, 3, H, W) in [-1, 1] of B prompts from B seeds."""
    text = backbone.encode_prompts([*[join_prompt("", ())] * len(prompts), *prompts])
    return _denoise(backbone, text, initial_latents(backbone, seeds, how.resolution), how, Guide())


@torch.inference_mode()
def sample_guided(backbone: Backbone, prompts: Sequence[Prompt], seeds: Sequence[int], how: Sampling,
                  make_guide: Callable[[Prompt], Guide]) -> Tensor:
    """The same under a guide, which is made for one picture: one after another."""
    images = []
    for prompt, seed in zip(prompts, seeds, strict=True):
        guide = make_guide(prompt)
        text = guide.text(backbone, backbone.encode_prompts([join_prompt("", ()), prompt]))
        images.append(_denoise(backbone, text, initial_latents(backbone, [seed], how.resolution), how, guide))
    return torch.cat(images)


def _denoise(backbone: Backbone, text: TextFeatures, noise: Tensor, how: Sampling, guide: Guide) -> Tensor:
    """`text` (2B prompts): first those to guide away from, then those of the pictures; noise (B, C, h, w)."""
    x_t = noise.to(text.embeddings)
    sampler = backbone.sampler(how.num_inference_steps, latent_size=tuple(noise.shape[-2:]))
    for step, t in enumerate(sampler.timesteps):
        x_t = guide.latents(backbone, step, t, x_t, text)
        unconditional, conditional = backbone.predict(torch.cat([x_t, x_t]), t.expand(2 * len(x_t)), text).chunk(2)
        x_t = sampler.step(unconditional + how.guidance_scale * (conditional - unconditional), t, x_t).prev_sample
    return backbone.decode(x_t).float().clamp(-1, 1)


def to_pixels(images: Tensor) -> np.ndarray:
    """(B, 3, H, W) in [-1, 1] -> (B, H, W, 3) uint8, rounded as portraits are.

    Laid out as an array read back from disk is: networks round differently on another layout, and a score must not depend
    on whether its picture was just drawn.
    """
    return np.ascontiguousarray(((images + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy())
