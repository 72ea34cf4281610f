"""The pictures that show how a run is getting on: one text and one seed, drawn again and again."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from spf.backbones.base import Backbone
from spf.clip import Clip
from spf.config import GenerationRequest, ModelPreset, TrainConfig
from spf.data.records import Record
from spf.generation.pair import Pair
from spf.training.run_folder import RunFolder
from spf.training.stages import Stage

PREVIEW_STEPS = 10  # denoising steps of a preview picture
PREVIEW_SEED = 7


@dataclass(eq=False)
class Preview:
    """Draws the first picture's texts with a fixed seed; the original is drawn once."""

    folder: RunFolder
    reference: Backbone
    response: Backbone
    clip: Clip
    preset: ModelPreset
    record: Record
    config: TrainConfig

    def __post_init__(self) -> None:
        self._original = None

    @torch.inference_mode()
    def __call__(self, stage: Stage, step: int) -> None:
        request = GenerationRequest(
            model=self.config.model, base_text=self.record.base_text, target_texts=(self.record.target_text,),
            seed=PREVIEW_SEED, num_inference_steps=PREVIEW_STEPS, guidance_scale=self.preset.guidance_scale, map_steps=3)
        pair = Pair(self.reference, self.response, self.clip, self.preset.resolution, request, self.config.method)
        result = pair.run(self._original)
        self._original = pair.original
        self.folder.save_sample(step, result.original, result.customized, result.mean_map("sfcm"))
