"""Everything about a training set that no step changes, computed once: latents, text features, gamma, CLIP embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from spf.backbones.base import Backbone, TextFeatures
from spf.clip import Clip
from spf.config import MethodConfig
from spf.data.batches import Examples
from spf.data.pictures import load_picture, to_array
from spf.data.records import Record
from spf.method.control_map import phrase_relevance
from spf.method.phrases import join_prompt

ENCODED_AT_ONCE = 16


@torch.no_grad()
def prepare(records: Sequence[Record], backbone: Backbone, clip: Clip, resolution: int, method: MethodConfig) -> Examples:
    """Encode a training set. Raises DataError for a picture that cannot be read, InvalidInput for an over-long target."""
    full = backbone.encode_prompts([join_prompt(record.base_text, [record.target_text]) for record in records])
    base = backbone.encode_prompts([join_prompt(prompt.base.text, ()) for prompt in full.prompts])
    device = full.embeddings.device
    latents, images = [], []
    for start in tqdm(range(0, len(records), ENCODED_AT_ONCE), desc="encoding pictures", unit="batch"):
        chunk = records[start:start + ENCODED_AT_ONCE]
        pixels = torch.stack([torch.from_numpy(to_array(load_picture(record.path, resolution))) for record in chunk]).to(device)
        latents.append(backbone.encode_images(pixels))
        images.append(clip.embed_images(pixels))
    targets = clip.embed_texts([prompt.target.text for prompt in full.prompts])
    return Examples(
        torch.cat(latents), full, base, _gamma(full, targets, clip, method), targets, torch.cat(images), tuple(records))


def _gamma(full: TextFeatures, targets: Tensor, clip: Clip, method: MethodConfig) -> Tensor:
    """The relevance (N, P) of each base phrase to the target, D10."""
    if method.gamma == "contextual":
        return phrase_relevance(*full.phrase_means())
    return phrase_relevance(clip.embed_text_lists([[p.text for p in prompt.phrases] for prompt in full.prompts]), targets)
