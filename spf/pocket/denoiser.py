"""The embedded denoiser: diffusers' UNet2DConditionModel, noise prediction on cached latents, fresh captions every step."""

from __future__ import annotations

import random

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from spf.config import ComponentConfig
from spf.pocket import captions
from spf.pocket.component import Component
from spf.pocket.world import Portrait

EMPTY_PROMPT_SHARE = 0.1  # trains the unconditional branch of classifier-free guidance
MIN_SNR_GAMMA = 5.0
# Eyes, mouth, glasses and collar: a quarter of the picture in which half of the attributes are decided.
DETAIL_TOP, DETAIL_LEFT, DETAIL_RIGHT, DETAIL_WEIGHT = 0.35, 0.3, 0.7, 4.0


def build(config: ComponentConfig) -> UNet2DConditionModel:
    return UNet2DConditionModel(**config.architecture)


def scheduler() -> DDIMScheduler:
    """Stable Diffusion 1.5's noise schedule, sampled with 'trailing' steps so that sampling starts at pure noise."""
    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
        set_alpha_to_one=False, steps_offset=1, timestep_spacing="trailing")


def component(network: UNet2DConditionModel, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, latents: Tensor,
              portraits: list[Portrait], config: ComponentConfig, device: torch.device) -> Component:
    abar = scheduler().alphas_cumprod.to(device)
    weights = detail_weights(latents.shape[-1]).to(device)

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        index = torch.randint(len(portraits), (config.batch_size,), generator=generator, device=device).cpu()
        x_0 = latents[index].to(device)
        noise = torch.randn(x_0.shape, generator=generator, device=device)
        t = torch.randint(len(abar), (len(x_0),), generator=generator, device=device)
        signal = abar[t].view(-1, 1, 1, 1)
        text = _embed(text_encoder, tokenizer, random_captions([portraits[i] for i in index], random.Random(f"denoiser/{step}")))
        prediction = network(signal.sqrt() * x_0 + (1 - signal).sqrt() * noise, t, text).sample
        error = (weights * (prediction.float() - noise).square()).mean(dim=(1, 2, 3))
        snr = abar[t] / (1 - abar[t])
        return (error * snr.clamp(max=MIN_SNR_GAMMA) / snr).mean(), {"mse": error.detach().mean()}

    return Component("denoiser", network, loss, config)


def detail_weights(size: int) -> Tensor:
    """How much each cell of a latent counts, (size, size) with mean 1. What is best to predict does not change by it."""
    centres = (torch.arange(size) + 0.5) / size
    rows, columns = centres > DETAIL_TOP, (centres > DETAIL_LEFT) & (centres < DETAIL_RIGHT)
    weights = torch.where(rows[:, None] & columns, DETAIL_WEIGHT, 1.0)
    return weights / weights.mean()


def random_captions(portraits: list[Portrait], rng: random.Random) -> list[str]:
    """A fresh caption for each portrait, and the empty prompt for some."""
    return ["" if rng.random() < EMPTY_PROMPT_SHARE else captions.base_caption(portrait, rng) for portrait in portraits]


@torch.no_grad()
def _embed(text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    ids = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    return text_encoder(ids.to(text_encoder.device)).last_hidden_state
