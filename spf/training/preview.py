"""The pictures that show how a run is getting on: one text and always the same seeds, drawn again and again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from spf.backbones.base import Backbone
from spf.clip import Clip
from spf.config import GenerationRequest, ModelPreset, TrainConfig
from spf.data.records import Record
from spf.generation.pair import Pair
from spf.generation.request import GenerationResult
from spf.training.run_folder import RunFolder
from spf.training.stages import Stage

PREVIEW_STEPS = 10  # denoising steps of a preview picture
PREVIEW_SEED = 7  # the first; further ones follow


@dataclass(eq=False)
class Preview:
    """Draws the first picture's texts with fixed seeds, side by side; each original is drawn once."""

    folder: RunFolder
    reference: Backbone
    response: Backbone
    clip: Clip
    preset: ModelPreset
    record: Record
    config: TrainConfig

    def __post_init__(self) -> None:
        self._originals = {}

    @torch.inference_mode()
    def __call__(self, stage: Stage, step: int) -> None:
        drawn = [self._drawn(PREVIEW_SEED + number) for number in range(self.config.sample_seeds)]
        self.folder.save_sample(step, _side_by_side([result.original for result in drawn]),
                                _side_by_side([result.customized for result in drawn]),
                                np.hstack([result.mean_map("sfcm") for result in drawn]))

    def _drawn(self, seed: int) -> GenerationResult:
        request = GenerationRequest(
            model=self.config.model, base_text=self.record.base_text, target_texts=(self.record.target_text,),
            seed=seed, num_inference_steps=PREVIEW_STEPS, guidance_scale=self.preset.guidance_scale, map_steps=3)
        pair = Pair(self.reference, self.response, self.clip, self.preset.resolution, request, self.config.method)
        result = pair.run(self._originals.get(seed))
        self._originals[seed] = pair.original
        return result


def _side_by_side(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures of one size in a row."""
    return Image.fromarray(np.hstack([np.asarray(picture) for picture in pictures]))
