"""CLIP-I: cosine of the pair's image embeddings. CLIP-T: cosine of the customized portrait and a text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import open_clip
import torch

from spf.clip import Clip
from spf.metrics.base import Metric, Pairs, Rows
from spf.metrics.weights import Published, fill, find, load_tensors

VIT_L = Published("CLIP-I and CLIP-T", "clip-vit-large-patch14/open_clip_model.safetensors",
                  "https://huggingface.co/timm/vit_large_patch14_clip_224.openai (MIT)")


class ImageSimilarity:
    def __init__(self, clip: Clip, name: str):
        self.clip, self.name = clip, name

    @torch.no_grad()
    def __call__(self, pairs: Pairs) -> Rows:
        a, b = self.clip.embed_images(pairs.original), self.clip.embed_images(pairs.customized)
        return Rows.of((a.double() * b.double()).sum(dim=1).cpu().numpy())


class TextSimilarity:
    """`texts` picks what the portrait is compared with: the target alone, or the whole prompt."""

    def __init__(self, clip: Clip, name: str, texts: Callable[[Pairs], tuple[str, ...]]):
        self.clip, self.name, self.texts = clip, name, texts

    @torch.no_grad()
    def __call__(self, pairs: Pairs) -> Rows:
        images, texts = self.clip.embed_images(pairs.customized), self.clip.embed_texts(list(self.texts(pairs)))
        return Rows.of((images.double() * texts.double()).sum(dim=1).cpu().numpy())


def metrics(clip: Clip, name: str) -> list[Metric]:
    return [
        Metric("clip_i", "CLIP-I", "up", ImageSimilarity(clip, name)),
        Metric("clip_t", "CLIP-T", "up", TextSimilarity(clip, name, lambda pairs: pairs.target_texts)),
        Metric("clip_t_full", "CLIP-T, whole prompt", "up", TextSimilarity(clip, name, lambda pairs: pairs.prompts)),
    ]


def vit_large(folder: Path, device: torch.device | str = "cpu") -> Clip:
    """OpenAI's CLIP ViT-L/14. Raises MetricUnavailable naming the file that is missing."""
    return published_clip(VIT_L, "ViT-L-14-quickgelu", folder, device)


def published_clip(published: Published, architecture: str, folder: Path, device: torch.device | str) -> Clip:
    """A published CLIP of one of open_clip's architectures, with its own tokenizer, which comes with the package."""
    path = find(published, folder)
    network = fill(open_clip.create_model(architecture, pretrained=None), load_tensors(path), path)
    tokenize = open_clip.get_tokenizer(architecture)
    return Clip(network, tokenize, open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD).to(torch.device(device))
