"""Stable Diffusion 1.x and everything shaped like it: CLIP text encoder, U-Net with cross-attention, autoencoder."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from spf.backbones import autoencoder, parallel_attention
from spf.backbones.autoencoder import Autoencoder
from spf.backbones.base import LayerFeatures, Sampler, TextFeatures
from spf.backbones.capture import capture, latent_grid
from spf.backbones.latent import LatentDiffusion
from spf.backbones.samplers import UNET_SAMPLERS, sampler_class
from spf.backbones.tokens import Reader, fit, memberships, tokenize
from spf.config import Scheduler
from spf.method.attention import AttentionLayer, split_heads
from spf.method.diffusion import EpsilonObjective
from spf.method.emphasis import emphasise
from spf.method.phrases import Prompt

CROSS_ATTENTION = "attn2"  # in a U-Net, attn1 is self-attention and attn2 attends from image to text
ENCODED_AT_ONCE = 64  # prompts; a training set may hold thousands
# Appendix E: stage 2 updates the whole cross-attention module.
CROSS_PROJECTIONS = tuple(f"{CROSS_ATTENTION}.{name}." for name in ("to_q", "to_k", "to_v", "to_out"))


@dataclass
class UNetBackbone(LatentDiffusion):
    """The U-Net family of backbones.base.Backbone."""

    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel
    denoiser: UNet2DConditionModel
    vae: Autoencoder
    scheduler: DDIMScheduler

    cross_projections = CROSS_PROJECTIONS
    default_scheduler = "ddim"

    def __post_init__(self) -> None:
        for module in self.networks().values():
            module.requires_grad_(False).eval()
        self.device = self.denoiser.device
        self.objective = EpsilonObjective(self.scheduler.alphas_cumprod.to(self.device))
        self.window = self.tokenizer.model_max_length
        self._reader = Reader(self.tokenizer, self.window)
        # walked once: looking through all modules at every step costs more than the hooks
        self._cross_attentions = [
            name for name, _ in self.denoiser.named_modules() if name.endswith(f".{CROSS_ATTENTION}")]

    def latent_shape(self, height: int, width: int | None = None) -> tuple[int, int, int]:
        return self.denoiser.config.in_channels, *autoencoder.latent_size(self.vae, height, width or height)

    def sampler(self, num_inference_steps: int, scheduler: Scheduler | None = None,
                latent_size: tuple[int, int] | None = None) -> Sampler:
        made = sampler_class(UNET_SAMPLERS, scheduler or self.default_scheduler).from_config(self.scheduler.config)
        made.set_timesteps(num_inference_steps, device=self.device)
        return made

    def fork(self, own: Collection[str] | None = None) -> UNetBackbone:
        return UNetBackbone(self.tokenizer, self.text_encoder, self._own_denoiser(own), self.vae, self.scheduler)

    def to(self, device: torch.device) -> UNetBackbone:
        for module in self.networks().values():
            module.to(device)
        self.device = self.denoiser.device
        self.objective = self.objective.to(device)
        return self

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[Prompt]) -> TextFeatures:
        tokens = tokenize(self._reader, [fit(prompt, self._reader) for prompt in prompts])
        chunks = tokens.ids.to(self.device).split(ENCODED_AT_ONCE)
        embeddings = torch.cat([self.text_encoder(ids).last_hidden_state.float() for ids in chunks])
        embeddings = emphasise(embeddings, tokens.token_weights.to(self.device))
        return TextFeatures(embeddings, **memberships([tokens])).to(self.device)

    def predict(self, x_t: Tensor, t: Tensor, text: TextFeatures) -> Tensor:
        arguments = parallel_attention.arguments(self.denoiser, text)
        return self.denoiser(
            x_t.to(self.dtype), t, text.embeddings.to(self.dtype), cross_attention_kwargs=arguments).sample.to(x_t.dtype)

    @contextmanager
    def capture(self) -> Iterator[_CrossAttention]:
        names = self._cross_attentions
        sites = [f"{name}.{projection}" for name in names for projection in ("to_q", "to_k")]
        with capture(self.denoiser, sites) as outputs, latent_grid(self.denoiser) as grid:
            yield _CrossAttention(self.denoiser, names, outputs, grid)


@dataclass(frozen=True)
class _CrossAttention:
    """The captured projections of a prediction, as layer features."""

    denoiser: nn.Module
    names: list[str]
    outputs: dict[str, Tensor]
    latent_grid: dict[str, tuple[int, int]]

    def layers(self) -> list[LayerFeatures]:
        return [self._layer(name) for name in self.names]

    def _layer(self, name: str) -> LayerFeatures:
        module = self.denoiser.get_submodule(name)
        q = split_heads(self.outputs[f"{name}.to_q"], module.heads)  # (B, H, N, D)
        k = split_heads(self.outputs[f"{name}.to_k"], module.heads)  # (B, H, T, D)
        grid = _grid(q.shape[2], self.latent_grid["latents"])
        return LayerFeatures(
            name=name, grid=grid, text=k, image_key=q, image_value=q, image=q,
            attention=AttentionLayer(query=q, text_key=k, grid=grid, scale=module.scale))


def _grid(positions: int, latents: tuple[int, int]) -> tuple[int, int]:
    """(h, w) of a layer with `positions` tokens; U-Nets halve both sides together, rounding up."""
    h, w = latents
    while h * w > positions:
        h, w = math.ceil(h / 2), math.ceil(w / 2)
    return h, w
