"""TokenCompose (CVPR 2024): fine-tuning with two terms that hold a phrase's attention inside a mask of what it names.

Written from the paper's description. Here the phrase is the target, and its mask is a file beside each picture:
`masks/<picture>.png`, white where the target is. A mask without white (a style, a tone) leaves the diffusion loss alone.

Shapes: B samples, H heads, N = h w positions, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from spf.backbones.base import Backbone, LayerFeatures
from spf.baselines.fine_tuning import as_long_as_both
from spf.clip import Clip
from spf.config import Crop, TokenComposeConfig, TrainConfig
from spf.data.batches import Examples
from spf.data.metadata import MASKS
from spf.data.pictures import load_picture
from spf.data.problems import count, shown
from spf.data.records import Record, read_training_set
from spf.errors import DataError, InvalidInput
from spf.method.attention import attention_map
from spf.method.phrases import join_prompt
from spf.method.precision import wide
from spf.training.run import Stages
from spf.training.stages import FineTuneStage, Losses, Report

PIXELS_PER_LATENT = 8  # a mask is read at the size of the pictures


def stages(config: TrainConfig, reference: Backbone, response: Backbone, clip: Clip) -> Stages:
    """Raises DataError if a picture has no mask, InvalidInput for settings that contradict the method."""
    if config.caption_dropout:
        raise InvalidInput("caption_dropout", "must be 0 for the recipe 'tokencompose', whose terms are about a caption's tokens")
    require_masks(read_training_set(config))
    empty = reference.encode_prompts([join_prompt("", ())])
    fine_tuning = FineTuneStage(response, empty, snr_gamma=config.snr_gamma)
    return [(TokenComposeStage(fine_tuning, config.tokencompose, config.crop), as_long_as_both(config))]


def mask_path(picture: Path) -> Path:
    return picture.parent / MASKS / f"{picture.stem}.png"


def require_masks(records: Sequence[Record]) -> None:
    """Raises DataError naming the pictures that have no mask."""
    missing = [record.path for record in records if not mask_path(record.path).is_file()]
    if missing:
        raise DataError(
            f"data: {count(len(missing), 'picture')} of {len(records)} without a mask, which 'tokencompose' needs (the first: "
            f"{shown(str(mask_path(missing[0])), 200)}); write masks that are white where the target is, "
            "render the set with 'dataset render --masks', or choose another method")


def read_mask(picture: Path, resolution: int, crop: Crop) -> Tensor:
    """The mask of a picture, cropped as it is: (1, resolution, resolution) of 0 and 1. Raises BadPicture."""
    pixels = np.asarray(load_picture(mask_path(picture), resolution, crop).convert("L"))
    return torch.from_numpy(pixels > 127).float()[None]


def mask_on_grid(mask: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, 1, H, W) of 0 and 1 -> (B, h w): a position is inside if any part of it is, which dilates small masks."""
    return (F.adaptive_avg_pool2d(mask, grid) > 0).float().flatten(1)


def token_loss(attention: Sequence[Tensor], mask: Tensor, token_weights: Tensor) -> Tensor:
    """Sum over layers, mean over the phrase's tokens: (1 - the share of a token's attention that lies inside)^2; (B,).

    attention: (B, H, N, T) per layer, softmax over T; the share is averaged over heads before it is squared. mask (B, N)
    is 1 inside; token_weights (B, T) holds 1/len on the tokens.
    """
    total = torch.zeros(len(mask), device=mask.device)
    for a in map(wide, attention):
        inside = torch.einsum("bhnt,bn->bht", a, mask) / a.sum(2).clamp_min(1e-12)  # (B, H, T)
        total = total + ((1 - inside.mean(1)).square() * token_weights).sum(1)
    return total


def pixel_loss(attention: Sequence[Tensor], mask: Tensor, token_weights: Tensor) -> Tensor:
    """Binary cross-entropy between the mask and the phrase's attention, mean over positions; (B,).

    The attention is the sum over the phrase's tokens of the mean over heads and layers. Arguments as in `token_loss`.
    """
    mean = torch.stack([wide(a).mean(1) for a in attention]).mean(0)  # (B, N, T)
    probability = torch.einsum("bnt,bt->bn", mean, (token_weights > 0).to(mean.dtype)).clamp(0, 1)
    return F.binary_cross_entropy(probability, mask, reduction="none").mean(1)


def layer_groups(layers: Sequence[LayerFeatures]) -> list[list[LayerFeatures]]:
    """The layers of the middle and of each resolution on the way up; those on the way down are not held."""
    groups: dict[tuple[bool, tuple[int, int]], list[LayerFeatures]] = {}
    for layer in layers:
        if not layer.name.startswith("down_blocks."):
            groups.setdefault((layer.name.startswith("mid_block."), layer.grid), []).append(layer)
    return list(groups.values())


def _attention(layer: LayerFeatures) -> Tensor:
    """(B, H, N, T): what each position attends to."""
    return attention_map(layer.attention.query, layer.attention.text_key, scale=layer.attention.scale)


@dataclass
class TokenComposeStage:
    """L_diff + token_weight sum over groups of L_token + pixel_weight sum over groups of L_pixel."""

    fine_tuning: FineTuneStage
    settings: TokenComposeConfig
    crop: Crop = "center"
    name: str = "stage1"
    _masks: dict[Path, Tensor] = field(default_factory=dict)

    @property
    def response(self) -> Backbone:
        return self.fine_tuning.response

    def training_forward(self, batch: Examples, generator: Generator) -> tuple[Losses, Report]:
        with self.response.capture() as captured:
            losses, report = self.fine_tuning.training_forward(batch, generator)
            layers = captured.layers()
        tokens, mask = batch.full.target_weights.flatten(2).sum(2), self._batch_masks(batch)  # (B, T), (B, 1, H, W)
        shown_in = (mask.flatten(1).amax(1) > 0).float()  # (B,)
        token, pixel = 0, 0
        for group in layer_groups(layers):
            maps = [_attention(layer) for layer in group]
            inside = mask_on_grid(mask, group[0].grid)
            token = token + (shown_in * token_loss(maps, inside, tokens)).mean()
            pixel = pixel + (shown_in * pixel_loss(maps, inside, tokens)).mean()
        return {**losses, "token": self.settings.token_weight * token, "pixel": self.settings.pixel_weight * pixel}, report

    def _batch_masks(self, batch: Examples) -> Tensor:
        resolution = PIXELS_PER_LATENT * batch.latents.shape[-1]
        for record in batch.records:
            if record.path not in self._masks:
                self._masks[record.path] = read_mask(record.path, resolution, self.crop)
        return torch.stack([self._masks[record.path] for record in batch.records]).to(batch.latents.device)
