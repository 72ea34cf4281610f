"""Everything about a training set that no step changes, computed once: latents, text features, gamma, CLIP embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from spf.backbones.base import Backbone, TextFeatures
from spf.clip import Clip
from spf.config import Crop, MethodConfig, TrainConfig, home
from spf.data.batches import Examples
from spf.data.cache import TensorCache
from spf.data.records import Record
from spf.method.control_map import phrase_relevance
from spf.method.phrases import join_prompt
from spf.training.encoding import Encoder


def cache_for(config: TrainConfig) -> TensorCache | None:
    """This user's cache of encoded pictures and texts, or None if the run wants none."""
    return TensorCache(home() / "cache", round(config.cache_gb * 10**9)) if config.cache_gb else None


@torch.no_grad()
def prepare(records: Sequence[Record], backbone: Backbone, clip: Clip, resolution: int, method: MethodConfig,
            *, crop: Crop = "center", in_buckets: bool = False, cache: TensorCache | None = None) -> Examples:
    """Encode a training set, or take from the cache what was encoded before.

    Raises DataError for a picture that cannot be read, InvalidInput for an over-long target.
    """
    encoder = Encoder(backbone, clip, cache)
    full = encoder.prompts([join_prompt(record.base_text, [record.target_text]) for record in records])
    base = encoder.prompts([join_prompt(prompt.base.text, ()) for prompt in full.prompts])
    latents, images = encoder.pictures(records, resolution, crop, in_buckets)
    encoder.learn_texts([text.text for prompt in full.prompts for text in (prompt.target, *prompt.phrases)])
    targets = clip.embed_texts([prompt.target.text for prompt in full.prompts])
    if cache:
        cache.trim()
    return Examples(latents, full, base, _gamma(full, targets, clip, method), targets, images, tuple(records))


def _gamma(full: TextFeatures, targets: Tensor, clip: Clip, method: MethodConfig) -> Tensor:
    """The relevance (N, P) of each base phrase to the target, D10."""
    if method.gamma == "contextual":
        return phrase_relevance(*full.phrase_means())
    return phrase_relevance(clip.embed_text_lists([[p.text for p in prompt.phrases] for prompt in full.prompts]), targets)
