"""One training run from pictures to a customization: check, encode once, stage 1, stage 2, save."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch

from spf import config as cfg
from spf.backbones import checkpoints
from spf.backbones.base import Backbone
from spf.clip import Clip
from spf.config import GenerationRequest, ModelPreset, TrainConfig
from spf.data.batches import Examples
from spf.data.records import Record, read_folder
from spf.errors import Cancelled, SpfError
from spf.generation.pair import Pair
from spf.library import Customization, CustomizationCard
from spf.method.phrases import join_prompt
from spf.training.examples import prepare
from spf.training.loop import Watch, steps_of, train_stage
from spf.training.run_folder import RunFolder, RunStatus
from spf.training.stages import DualPathStage, FineTuneStage, Stage

PREVIEW_STEPS = 10  # denoising steps of a preview picture
PREVIEW_SEED = 7


@dataclass(eq=False)
class Run:
    """The pieces of one run. `execute` never leaves the status 'running'."""

    config: TrainConfig
    folder: RunFolder
    device: torch.device

    def execute(self) -> Customization:
        """Train and write the customization. Whatever happens, the status ends in one final state."""
        self.status = RunStatus.of_this_process("running")
        try:
            written = self._train()
        except Cancelled as error:
            self._end("cancelled", str(error))
            raise
        except SpfError as error:
            self._end("failed", str(error))
            raise
        except BaseException as error:  # also KeyboardInterrupt and out of memory: the page must not wait for ever
            self._end("interrupted" if isinstance(error, KeyboardInterrupt) else "failed", f"{type(error).__name__}: {error}")
            raise
        self._end("completed", written.card.name)
        return written

    def _train(self) -> Customization:
        self.folder.write_status(self.status)
        records = read_folder(Path(self.config.data))
        preset = cfg.model_preset(self.config.model)
        reference = checkpoints.load_backbone(preset, self.device)
        clip = Clip.from_folder(cfg.REPOSITORY / preset.clip).to(self.device)
        response = reference.fork()
        if self.config.initial_customization:
            checkpoints.apply(response, checkpoints.customization(self.config.initial_customization, preset).tensors())
        self._check_targets(records, reference)
        examples = prepare(records, reference, clip, preset.resolution, self.config.method)
        self._run_stages(reference, response, clip, examples, preset, records)
        before = reference.denoiser.state_dict()
        tensors = checkpoints.changed_tensors(before, response.denoiser.state_dict())
        return checkpoints.save_customization(self._card(preset, records, examples), tensors)

    def _run_stages(self, reference: Backbone, response: Backbone, clip: Clip, examples: Examples,
                    preset: ModelPreset, records: list[Record]) -> None:
        config = self.config
        empty = reference.encode_prompts([join_prompt("", ())])
        stages: list[tuple[Stage, cfg.StageConfig]] = []
        if config.stage in ("both", "1"):
            stages.append((FineTuneStage(response, empty, config.caption_dropout), config.stage1))
        if config.stage in ("both", "2"):
            stages.append((DualPathStage(reference, response, clip, config.method, empty, config.caption_dropout,
                                         config.base_only_prob), config.stage2))
        lengths = [steps_of(stage_config, len(examples)) for _, stage_config in stages]
        preview = _Preview(self.folder, reference, response, clip, preset, records[0], config)
        self.status = self.status.model_copy(update={"total_steps": sum(lengths)})
        self._pace = time.monotonic()
        for index, (stage, stage_config) in enumerate(stages):
            watch = Watch(
                on_log=self.folder.log, on_step=self._on_step, on_sample=preview, is_cancelled=self.folder.cancel_requested,
                log_every=config.log_every, sample_every=config.sample_every, first_step=sum(lengths[:index]))
            train_stage(stage, examples, stage_config, config.seed, watch)

    def _on_step(self, stage: str, step: int) -> None:
        elapsed = time.monotonic() - self._pace
        left = elapsed / step * (self.status.total_steps - step)
        self.status = self.status.model_copy(update={"stage": stage, "step": step, "eta": round(left, 1)})
        self.folder.write_status(self.status)

    def _end(self, state: str, message: str) -> None:
        self.folder.write_status(self.status.model_copy(update={"state": state, "eta": None, "message": message}))

    def _check_targets(self, records: list[Record], reference: Backbone) -> None:
        """An over-long target is refused before anything is encoded."""
        for target in dict.fromkeys(record.target_text for record in records):
            reference.encode_prompts([join_prompt("a", [target])])

    def _card(self, preset: ModelPreset, records: list[Record], examples: Examples) -> CustomizationCard:
        config = self.config
        return CustomizationCard(
            name=config.name, model=config.model, model_sha256=checkpoints.denoiser_hash(preset),
            phrases=tuple(dict.fromkeys(record.target_text for record in records)), stage=config.stage,
            method=config.method, created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            summary={"pictures": len(examples), "run": self.folder.id, "seconds": round(time.monotonic() - self._pace),
                     "stage1_steps": steps_of(config.stage1, len(examples)) if config.stage != "2" else 0,
                     "stage2_steps": steps_of(config.stage2, len(examples)) if config.stage != "1" else 0})


@dataclass(eq=False)
class _Preview:
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
