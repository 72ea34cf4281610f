"""Standard fine-tuning, LoRA and AdaLoRA: stage 1 alone, for as many updates as both stages of SPF-Portrait make.

What tells the three apart is `stage1.trainable`, see backbones.trainables.
"""

from __future__ import annotations

import math

from spf.backbones.base import Backbone
from spf.clip import Clip
from spf.config import StageConfig, TrainConfig
from spf.method.phrases import join_prompt
from spf.training.run import Stages
from spf.training.stages import FineTuneStage


def stages(config: TrainConfig, reference: Backbone, response: Backbone, clip: Clip) -> Stages:
    """The diffusion loss on the full prompt and nothing else (Eq. 1)."""
    empty = reference.encode_prompts([join_prompt("", ())])
    return [(FineTuneStage(response, empty, config.caption_dropout, config.snr_gamma), as_long_as_both(config))]


def as_long_as_both(config: TrainConfig) -> StageConfig:
    """Stage 1 with as many updates as the stages asked for make together.

    A `max_train_steps` of stage 1 alone is the whole length. Epochs of stage 2 count by its batch, so that two methods
    are compared after equally many updates, not after equally many pictures.
    """
    first, second = config.stage1, config.stage2
    if config.stage == "1":
        return first
    if first.max_train_steps:
        return first.model_copy(update={"max_train_steps": first.max_train_steps + second.max_train_steps})
    batches = [stage.train_batch_size * stage.gradient_accumulation_steps for stage in (first, second)]
    more = math.ceil(second.num_train_epochs * batches[0] / batches[1])
    return first.model_copy(update={"num_train_epochs": first.num_train_epochs + more})
