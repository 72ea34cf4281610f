"""Captions that training never saw, pictures of them, and how much of what they name the pictures show."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import torch
from torch import Tensor

from spf.backbones.base import Backbone
from spf.config import ModelPreset
from spf.method.phrases import Prompt, join_prompt
from spf.pocket import captions
from spf.pocket.world import ATTRIBUTES, Portrait

HELD_OUT = "score"  # name of the stream of portraits that is never trained on
NAMED_SHARE = 0.6  # of the attributes, in each caption


@torch.inference_mode()
def sample(backbone: Backbone, model: ModelPreset, prompts: Sequence[Prompt], seeds: Sequence[int], batch: int = 20) -> Tensor:
    """Guided samples (N, 3, H, W) in [-1, 1] with the model's default steps and guidance, one seed each."""
    shape = backbone.latent_shape(model.resolution)
    noise = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    images = []
    for start in range(0, len(prompts), batch):
        chunk = prompts[start:start + batch]
        text = backbone.encode_prompts([*[join_prompt("", ())] * len(chunk), *chunk])
        sampler, x_t = backbone.sampler(model.num_inference_steps), noise[start:start + batch].to(text.embeddings.device)
        for t in sampler.timesteps:
            unconditional, conditional = backbone.predict(torch.cat([x_t, x_t]), t.expand(2 * len(x_t)), text).chunk(2)
            guided = unconditional + model.guidance_scale * (conditional - unconditional)
            x_t = sampler.step(guided, t, x_t).prev_sample
        images.append(backbone.decode(x_t).clamp(-1, 1))
    return torch.cat(images)


def held_out_captions(portraits: Sequence[Portrait]) -> tuple[list[str], list[set[str]]]:
    """One caption per portrait, and the attributes it names."""
    texts, named = [], []
    for index, portrait in enumerate(portraits):
        rng = random.Random(f"{HELD_OUT}/caption/{index}")
        names = {name for name in ATTRIBUTES if rng.random() < NAMED_SHARE}
        texts.append(captions.describe(portrait, names, rng))
        named.append(names)
    return texts, named


def named_right(read: dict[str, Sequence[str]], asked: Sequence[Portrait], named: Sequence[set[str]]) -> dict[str, float]:
    """Per attribute, the share of the pictures whose caption names it that show what it says; NaN if none does."""
    return {attribute: share_of([read[attribute][row] == portrait.value(attribute) for row, portrait in enumerate(asked)
                               if attribute in named[row]]) for attribute in ATTRIBUTES}


def share_of(rights: Sequence[bool]) -> float:
    """Of the true ones; NaN of none."""
    return sum(rights) / len(rights) if rights else math.nan
