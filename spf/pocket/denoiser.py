"""The embedded denoiser: diffusers' UNet2DConditionModel, noise prediction on cached latents, fresh captions every step.

CLIP's text tower is its text encoder and is trained on with it, as latent diffusion's first text encoder was. What CLIP
has learned is where it starts: contrast leaves the words for a mouth or a collar so close to each other (a third of the
distance between two hair colours) that the denoiser alone draws a hoodie where a sweater is asked for.

Some captions go on with words that no portrait is described by; the picture does not change. A word that was never seen
would move hair and walls at random, and a portrait is to hold still until such a word is taught. These captions do not
train the text encoder, which would otherwise forget how the words differ.
"""

from __future__ import annotations

import random
import re

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from spf.config import ComponentConfig
from spf.pocket import captions
from spf.pocket.component import Component
from spf.pocket.world import Portrait

EMPTY_PROMPT_SHARE = 0.1  # trains the unconditional branch of classifier-free guidance
UNKNOWN_WORDS_SHARE = 0.25  # of the captions
MIN_SNR_GAMMA = 5.0
# Eyes, mouth, glasses and collar: a quarter of the picture in which half of the attributes are decided.
DETAIL_TOP, DETAIL_LEFT, DETAIL_RIGHT, DETAIL_WEIGHT = 0.35, 0.3, 0.7, 4.0


class TextConditionedUNet(nn.Module):
    """The U-Net and its text encoder, trained together."""

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel):
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder.requires_grad_(True)

    def forward(self, x_t: Tensor, t: Tensor, ids: Tensor, frozen: Tensor) -> Tensor:
        """Noise (B, C, h, w) predicted for x_t at t (B,), from the captions' tokens (B, 77); `frozen` (B,) bool: which of
        them do not train the text encoder."""
        text = self.text_encoder(ids).last_hidden_state  # (B, 77, D)
        text = torch.where(frozen.view(-1, 1, 1), text.detach(), text)
        return self.unet(x_t, t, text).sample


def build(config: ComponentConfig, text_encoder: CLIPTextModel) -> TextConditionedUNet:
    """With attention written out: on a CPU the backward pass of torch's fused one takes a third of a step of a model so small."""
    unet = UNet2DConditionModel(**config.architecture)
    unet.set_attn_processor(AttnProcessor())
    text_encoder.set_attn_implementation("eager")
    return TextConditionedUNet(unet, text_encoder)


def scheduler() -> DDIMScheduler:
    """Stable Diffusion 1.5's noise schedule, sampled with 'trailing' steps so that sampling starts at pure noise."""
    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
        set_alpha_to_one=False, steps_offset=1, timestep_spacing="trailing")


def component(network: TextConditionedUNet, tokenizer: CLIPTokenizer, latents: Tensor, portraits: list[Portrait],
              config: ComponentConfig, device: torch.device) -> Component:
    abar = scheduler().alphas_cumprod.to(device)
    weights = detail_weights(latents.shape[-1]).to(device)
    words = unknown_words(tokenizer, portraits)

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        index = torch.randint(len(portraits), (config.batch_size,), generator=generator, device=device).cpu()
        x_0 = latents[index].to(device)
        noise = torch.randn(x_0.shape, generator=generator, device=device)
        t = torch.randint(len(abar), (len(x_0),), generator=generator, device=device)
        signal = abar[t].view(-1, 1, 1, 1)
        rng = random.Random(f"denoiser/{step}")
        texts, frozen = random_captions([portraits[i] for i in index], words, rng)
        ids = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids.to(device)
        prediction = network(signal.sqrt() * x_0 + (1 - signal).sqrt() * noise, t, ids, frozen.to(device))
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


def random_captions(portraits: list[Portrait], words: list[str], rng: random.Random) -> tuple[list[str], Tensor]:
    """A fresh caption for each of B portraits, the empty prompt for some; and whether unknown `words` follow it, (B,) bool."""
    texts = ["" if rng.random() < EMPTY_PROMPT_SHARE else captions.base_caption(portrait, rng) for portrait in portraits]
    extended = [rng.random() < UNKNOWN_WORDS_SHARE for _ in texts]
    texts = [with_unknown_words(text, words, rng) if more else text for text, more in zip(texts, extended, strict=True)]
    return texts, torch.tensor(extended)


def unknown_words(tokenizer: CLIPTokenizer, portraits: list[Portrait], count: int = 2000) -> list[str]:
    """The words of the vocabulary that do not occur in the captions of the first `count` portraits, sorted."""
    rng = random.Random("unknown words")
    known = {token for portrait in portraits[:count] for token in tokenizer(captions.base_caption(portrait, rng)).input_ids}
    words = [token.removesuffix("</w>") for token, index in tokenizer.get_vocab().items()
             if index not in known and re.fullmatch("[a-z]{3,}</w>", token)]
    return sorted(words)


def with_unknown_words(text: str, words: list[str], rng: random.Random) -> str:
    """`text` and after it one to three of `words`, as a phrase of its own; `text` itself if there are none."""
    phrase = rng.choice(("", "a ")) + " ".join(rng.choices(words, k=rng.randint(1, 3))) if words else ""
    return ", ".join(part for part in (text, phrase) if part)
