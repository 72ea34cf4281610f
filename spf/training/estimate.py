"""What a run would cost, measured: a few steps of each stage on a few of its pictures, in memory, nothing written."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from spf import config as cfg
from spf.backbones import checkpoints
from spf.clip import Clip
from spf.config import TrainConfig
from spf.data import buckets
from spf.data.pictures import upright_size
from spf.data.records import Record, read_training_set
from spf.training import identity
from spf.training.devices import accelerator_for, process_count
from spf.training.examples import prepare
from spf.training.ledger import used_memory
from spf.training.loop import Watch, global_batch, steps_of, train_stage
from spf.training.reports import require_reporter
from spf.training.run import MakeStages, initial_tensors, own_tensors, spf_stages

TIMED_STEPS = 3  # the first of them warms up


@dataclass(frozen=True)
class StageEstimate:
    name: str
    steps: int
    global_batch: int
    seconds_per_step: float
    seconds: float


@dataclass(frozen=True)
class Estimate:
    """Seconds of the steps alone; samples, validation and encoding come on top."""

    pictures: int
    validation_pictures: int
    stages: tuple[StageEstimate, ...]
    peak_memory_gb: float
    encoding_seconds: float
    buckets: dict[str, int]  # "WIDTHxHEIGHT" of the pictures -> how many; empty for squares

    @property
    def seconds(self) -> float:
        return self.encoding_seconds + sum(stage.seconds for stage in self.stages)


def estimate(config: TrainConfig, device: torch.device, make_stages: MakeStages = spf_stages) -> Estimate:
    """Raises what a run would raise before its first step: DataError, ModelNotFound, CustomizationError, InvalidInput."""
    accelerator = accelerator_for(device, config.mixed_precision)
    require_reporter(config.report_to)
    records = read_training_set(config)
    identity.require_held_out(config, len(records))
    preset = cfg.model_preset(config.model)
    reference = checkpoints.load_backbone(preset, device)
    clip = Clip.load(preset.clip).to(device)
    response = reference.fork(own_tensors(config, preset, reference, None))
    if config.initial_customization:
        checkpoints.apply(response, initial_tensors(config, preset, reference))
    if config.gradient_checkpointing:
        response.enable_gradient_checkpointing()
    few = records[:max(config.stage1.train_batch_size, config.stage2.train_batch_size)]
    started = time.perf_counter()
    examples = prepare(few, reference, clip, preset.resolution, config.method, crop=config.crop,
                       in_buckets=config.aspect_ratio_buckets)
    encoding = (time.perf_counter() - started) / len(few) * len(records)
    shown, held_out = identity.split(len(records), config.validation_split, config.seed)
    stages, peak = [], 0
    for stage, settings in make_stages(config, reference, response, clip):
        times: list[float] = []
        few_steps = settings.model_copy(update={"max_train_steps": TIMED_STEPS})
        watch = Watch(on_step=lambda name, step, times=times: times.append(time.perf_counter()))
        train_stage(stage, examples, few_steps, config.seed, watch, accelerator)
        pace = (times[-1] - times[0]) / (len(times) - 1)
        steps = steps_of(settings, len(shown), process_count())
        stages.append(StageEstimate(
            stage.name, steps, global_batch(settings, process_count()), round(pace, 4), round(pace * steps, 1)))
        peak = max(peak, used_memory(accelerator.device))
    return Estimate(len(records), len(held_out), tuple(stages), round(peak / 1e9, 2), round(encoding, 1),
                    _buckets(records, preset.resolution) if config.aspect_ratio_buckets else {})


def _buckets(records: Sequence[Record], resolution: int) -> dict[str, int]:
    return buckets.counted(buckets.bucket_of(upright_size(record.path), resolution) for record in records)


def in_words(found: Estimate) -> str:
    """A few lines for a terminal."""
    lines = [f"pictures: {found.pictures}, {found.validation_pictures} of them held out for validation"]
    if found.buckets:
        lines.append(f"buckets: {buckets.in_words(found.buckets)}")
    lines += [f"{stage.name}: {stage.steps} steps of {stage.global_batch} samples, {stage.seconds_per_step:.3g} s each"
              for stage in found.stages]
    return "\n".join([*lines, f"time: about {found.seconds / 60:.1f} minutes", f"memory: {found.peak_memory_gb} GB at the peak"])
