"""Measures an embedded model on pictures and captions that training never saw: `python -m spf pretrain score <preset>`."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from spf.backbones import checkpoints
from spf.backbones.base import Backbone
from spf.clip import Clip
from spf.config import REPOSITORY, ModelPreset, model_preset
from spf.method.phrases import join_prompt
from spf.pocket import captions, contrast, renderer
from spf.pocket.autoencoder import to_images
from spf.pocket.pictures import portrait_at
from spf.pocket.world import ATTRIBUTES, Portrait

HELD_OUT = "score"  # name of the stream of portraits that is never trained on
NAMED = ("background_color", "hair_color", "hair_style", "skin_tone", "clothing_color", "clothing", "glasses", "expression")


def score(preset: str, device: torch.device, captions_count: int = 100, pictures_count: int = 200) -> dict[str, Any]:
    """Reconstruction PSNR, and how often generated pictures show what their caption names, read by the model's own CLIP.

    `clip_*` is CLIP's own accuracy on rendered pictures: no generated picture can be read better than that.
    """
    model = model_preset(preset)
    backbone, clip = checkpoints.load_backbone(model, device), Clip.from_folder(REPOSITORY / model.clip).to(device)
    drawn = [portrait_at(HELD_OUT, index, 0.0) for index in range(pictures_count)]
    rendered = torch.cat([to_images(_pixels(renderer.draw(portrait, model.resolution)), device) for portrait in drawn])
    report: dict[str, Any] = {"psnr_db": round(_psnr(backbone, rendered), 2)}
    asked = drawn[:captions_count]
    texts, named = _captions(asked)
    generated = sample(backbone, model, texts, seeds=range(captions_count))
    for attribute in NAMED:
        rows = [index for index, names in enumerate(named) if attribute in names]
        read = read_attribute(clip, generated, attribute)
        right = sum(read[index] == asked[index].value(attribute) for index in rows)
        report[attribute] = f"{right}/{len(rows)} = {right / max(len(rows), 1):.1%}"
        known = [value == portrait.value(attribute) for value, portrait in
                 zip(read_attribute(clip, rendered, attribute), drawn, strict=True)]
        report[f"clip_{attribute}"] = f"{sum(known) / len(known):.1%}"
    return report


@torch.inference_mode()
def sample(backbone: Backbone, model: ModelPreset, texts: Sequence[str], seeds: Sequence[int], batch: int = 20) -> Tensor:
    """Guided samples (N, 3, H, W) in [-1, 1] with the model's default steps and guidance, one seed each."""
    shape = backbone.latent_shape(model.resolution)
    noise = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    images = []
    for start in range(0, len(texts), batch):
        chunk = texts[start:start + batch]
        prompts = backbone.encode_prompts([join_prompt(text, ()) for text in [*[""] * len(chunk), *chunk]])
        sampler, x_t = backbone.sampler(model.num_inference_steps), noise[start:start + batch].to(prompts.embeddings.device)
        for t in sampler.timesteps:
            unconditional, conditional = backbone.predict(torch.cat([x_t, x_t]), t.expand(2 * len(x_t)), prompts).chunk(2)
            guided = unconditional + model.guidance_scale * (conditional - unconditional)
            x_t = sampler.step(guided, t, x_t).prev_sample
        images.append(backbone.decode(x_t).clamp(-1, 1))
    return torch.cat(images)


@torch.inference_mode()
def read_attribute(clip: Clip, images: Tensor, attribute: str) -> list[str]:
    """The value of a base attribute that fits each picture best, by CLIP, against all values put into words."""
    texts = clip.embed_texts(contrast.attribute_prompts(attribute))
    embeddings = torch.cat([clip.embed_images(chunk) for chunk in images.split(50)])
    return [ATTRIBUTES[attribute][index] for index in (embeddings @ texts.T).argmax(dim=1).tolist()]


def _captions(portraits: Sequence[Portrait]) -> tuple[list[str], list[set[str]]]:
    """One caption per portrait, and the attributes it names."""
    texts, named = [], []
    for index, portrait in enumerate(portraits):
        rng = random.Random(f"{HELD_OUT}/caption/{index}")
        names = {name for name in ATTRIBUTES if rng.random() < 0.6}
        texts.append(captions.describe(portrait, names, rng))
        named.append(names)
    return texts, named


@torch.inference_mode()
def _psnr(backbone: Backbone, images: Tensor) -> float:
    """Mean over pictures of 10 log10(1 / mse), for values in [0, 1]."""
    decoded = torch.cat([backbone.decode(backbone.encode_images(chunk)).clamp(-1, 1) for chunk in images.split(50)])
    mse = ((decoded - images) / 2).square().mean(dim=(1, 2, 3))
    return float((10 * torch.log10(1 / mse)).mean()) if math.isfinite(float(mse.sum())) else float("nan")


def _pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture)[None]
