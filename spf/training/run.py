"""One training run from pictures to a customization: check, encode once, stage 1, stage 2, save. It can go on later."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch

from spf import config as cfg
from spf.backbones import autoencoder, checkpoints
from spf.backbones.base import Backbone
from spf.backbones.loading import load_tiny_autoencoder
from spf.backbones.parallel_attention import install_for
from spf.backbones.trainables import changed_names
from spf.clip import Clip
from spf.config import ModelPreset, StageConfig, TrainConfig
from spf.data.batches import Examples
from spf.data.records import Record, read_training_set
from spf.errors import Cancelled, DiskFull, Paused, SpfError, TrainingError
from spf.files import is_disk_full, sync
from spf.library import MAX_PHRASES, Customization, CustomizationCard
from spf.method.phrases import join_prompt, single_phrases
from spf.training import checkpoint, identity
from spf.training.checkpoint import Checkpoint, Position
from spf.training.devices import accelerator_for, process_count, process_rank
from spf.training.examples import cache_for, prepare
from spf.training.loop import Ended, StageState, Watch, global_batch, steps_of, train_stage
from spf.training.offload import offloaded, unused
from spf.training.optimizer import require_optimizer
from spf.training.preview import Preview
from spf.training.reports import reporter, require_reporter
from spf.training.run_folder import RunFolder, RunStatus
from spf.training.stages import DualPathStage, FineTuneStage, Stage
from spf.training.stopping import stopped_when

Stages = list[tuple[Stage, StageConfig]]
MakeStages = Callable[[TrainConfig, Backbone, Backbone, Clip], Stages]


def spf_stages(config: TrainConfig, reference: Backbone, response: Backbone, clip: Clip) -> Stages:
    """The stages of the paper that a run asks for, in order, each with its settings."""
    empty = reference.encode_prompts([join_prompt("", ())])
    stages: Stages = []
    if config.stage in ("both", "1"):
        stages.append((FineTuneStage(response, empty, config.caption_dropout, config.snr_gamma), config.stage1))
    if config.stage in ("both", "2"):
        stages.append((DualPathStage(
            reference, response, clip, config.method, empty, config.caption_dropout, config.base_only_prob, config.snr_gamma,
            config.reference_precision == "bf16", tiny_decoder(config, response) if config.tiny_decoder else None),
            config.stage2))
    return stages


def tiny_decoder(config: TrainConfig, response: Backbone) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """How L_enhanced decodes without the full decoder; None, and that one checkpointed, where no tiny one is here.

    A model whose own autoencoder is tiny needs no other. Raises ModelNotFound for a damaged one.
    """
    if autoencoder.is_tiny(response.vae):
        return None
    channels = response.denoiser.config.in_channels
    network = load_tiny_autoencoder(cfg.model_preset(config.model), channels, response.device)
    if network is None:
        response.vae.enable_gradient_checkpointing()
        return None
    return partial(autoencoder.decode, network)


def own_tensors(config: TrainConfig, preset: ModelPreset, reference: Backbone, resumed: Checkpoint | None) -> set[str]:
    """Names of the denoiser's tensors that the run may change; all others are in memory once, for both paths."""
    names = set(resumed.weight_names()) if resumed else set()
    if config.initial_customization:
        names |= initial_tensors(config, preset, reference).keys()
    for stage in config.trained_stages():
        names |= changed_names(reference, stage)
    return names


def initial_parts(config: TrainConfig, preset: ModelPreset) -> list[tuple[checkpoints.Customization, float]]:
    """What the run starts from: one customization, or a mix, or nothing. Raises CustomizationError."""
    weights = cfg.mix_weights(config.initial_customization) if config.initial_customization else {}
    return [(checkpoints.customization(name, preset), weight) for name, weight in weights.items()]


def initial_tensors(config: TrainConfig, preset: ModelPreset, reference: Backbone) -> dict[str, torch.Tensor]:
    """The weights that differ from the model's where the run starts. Raises CustomizationError."""
    return checkpoints.mixed(reference, initial_parts(config, preset))


def resumable(config: TrainConfig, folder: RunFolder, records: list[Record]) -> tuple[TrainConfig, Checkpoint | None]:
    """The newest whole checkpoint of a run, and the settings it goes on with on as many processes as there are.

    Loads no model. Raises ResumeRefused naming what differs from what the run was started with.
    """
    found = checkpoint.newest(folder.path, warn=lambda message: print(message, file=sys.stderr))
    if found is None:
        return config, None
    config = identity.on_these_devices(config, found.position, process_count())
    now = identity.identity(config, cfg.model_preset(config.model), records, process_count())
    identity.require_same(found.position.identity, now)
    return config, found


@dataclass(eq=False)
class Run:
    """The pieces of one run. `execute` never leaves the status 'running'.

    A run whose folder holds a checkpoint goes on from there. `make_stages` decides what is trained, and how.
    """

    config: TrainConfig
    folder: RunFolder
    device: torch.device
    make_stages: MakeStages = spf_stages

    def execute(self) -> Customization:
        """Train and write the customization. Whatever happens, the status ends in one final state."""
        self.status = RunStatus.of_this_process("running").model_copy(update={"started": self.folder.status().started})
        try:
            with self._stopped_when_cancelled():
                learned = self._train()
            written = self._written(*learned)
        except Paused as error:
            self._end("paused", str(error))
            raise
        except Cancelled as error:
            self._end("cancelled", str(error))
            raise
        except SpfError as error:
            self._end("failed", str(error))
            raise
        except BaseException as error:  # also KeyboardInterrupt and out of memory: the page must not wait for ever
            if (named := self._named(error)) is not None:
                self._end("failed", str(named))
                raise named from error
            self._end("interrupted" if isinstance(error, KeyboardInterrupt) else "failed", f"{type(error).__name__}: {error}")
            raise
        self._end("completed", written.card.name)
        return written

    def _named(self, error: BaseException) -> TrainingError | None:
        """What the user can do about an error that comes from the machine."""
        if is_disk_full(error):
            return DiskFull(f"train: the disk of {self.folder.path} is full; free some space, "
                            f"then go on with 'python -m spf resume {self.folder.id}'.")
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            return TrainingError("train: the memory of the device is used up; choose the preset 'low-memory', or a smaller "
                                 f"train_batch_size ({str(error).splitlines()[0] if str(error) else 'out of memory'}).")
        return None

    def _stopped_when_cancelled(self) -> AbstractContextManager[None]:
        """One process among several would leave the others waiting for it: those look together, between two steps."""
        return stopped_when(self.folder.cancel_requested) if process_count() == 1 else nullcontext()

    def _train(self) -> tuple[ModelPreset, list[Record], Backbone, Backbone]:
        """What `_written` takes."""
        self._write_status()
        require_reporter(self.config.report_to)
        for stage in self.config.trained_stages():
            require_optimizer(stage)
        records = read_training_set(self.config)
        identity.require_held_out(self.config, len(records))
        self.config, resumed = resumable(self.config, self.folder, records)
        self.accelerator = accelerator_for(self.device, self.config.mixed_precision)
        if self.accelerator.num_processes > 1:
            self.device = self.accelerator.device
        preset = cfg.model_preset(self.config.model)
        reference = checkpoints.load_backbone(preset, self.device)
        clip = Clip.load(preset.clip).to(self.device)
        response = self._response(reference, preset, resumed)
        self._check_targets(records, reference)
        examples = prepare(records, reference, clip, preset.resolution, self.config.method,
                           crop=self.config.crop,
                           in_buckets=self.config.aspect_ratio_buckets, cache=cache_for(self.config))
        preview = Preview(self.folder, reference, response, clip, preset, records[0], self.config)
        stages = self.make_stages(self.config, reference, response, clip)
        self._identity = identity.identity(self.config, preset, records, self.accelerator.num_processes)
        self._run_stages(stages, reference, clip, examples, preview, resumed)
        return preset, records, reference, response

    def _response(self, reference: Backbone, preset: ModelPreset, resumed: Checkpoint | None) -> Backbone:
        self._own = own_tensors(self.config, preset, reference, resumed)
        # read now: at the end they might be gone
        self._known = [phrase for part, weight in initial_parts(self.config, preset) if weight for phrase in part.card.phrases]
        response = reference.fork(self._own)
        if resumed is not None:  # what an earlier stage added must be there before its tensors come
            install_for(response.denoiser, resumed.weight_names())
        if self.config.initial_customization and resumed is None:
            checkpoints.apply(response, initial_tensors(self.config, preset, reference))
        if self.config.gradient_checkpointing:
            response.enable_gradient_checkpointing()
        return response

    def _run_stages(self, stages: Stages, reference: Backbone, clip: Clip, examples: Examples, preview: Preview,
                    resumed: Checkpoint | None) -> None:
        config, processes = self.config, self.accelerator.num_processes
        shown, held_out = identity.split(len(examples), config.validation_split, config.seed)
        training, validation = (examples[shown], examples[held_out]) if held_out else (examples, None)
        lengths = [steps_of(stage_config, len(training), processes) for _, stage_config in stages]
        self._planned = {stage.name: (settings, length) for (stage, settings), length in zip(stages, lengths, strict=True)}
        self._ended: dict[str, Ended] = {}  # a stage that an earlier process finished is not in it
        self._begin(sum(lengths), resumed)
        names = [stage.name for stage, _ in stages]
        first = names.index(resumed.position.stage) if resumed else 0
        for index, (stage, stage_config) in list(enumerate(stages))[first:]:
            watch = self._watch(sum(lengths[:index]), validation, preview, reference, stage_config)
            with offloaded(unused(stage, reference, clip) if config.offload else (), self.device):
                self._ended[stage.name] = train_stage(stage, training, stage_config, config.seed, watch, self.accelerator,
                                                      resumed if index == first else None)

    def _begin(self, total_steps: int, resumed: Checkpoint | None) -> None:
        self._begun, self._first = time.monotonic(), resumed.position.step if resumed else 0
        self.status = self.status.model_copy(update={"total_steps": total_steps, "step": self._first})
        if self._writes:
            self.folder.cut_metrics(resumed.position.metrics_bytes if resumed else 0)
            self._write_status()

    def _watch(self, first_step: int, held_out: Examples | None, preview: Preview, reference: Backbone,
               stage_config: StageConfig) -> Watch:
        """The loop's window on this run. Only process 0 writes, draws and listens; the others do the same steps."""
        config = self.config
        rhythm = {"held_out": held_out, "first_step": first_step, "log_every": config.log_every,
                  "sample_every": config.sample_every, "validate_every": config.validate_every,
                  "checkpoint_every": config.checkpoint_every, "early_stop_patience": config.early_stop_patience,
                  "divergence_factor": config.divergence_factor,
                  "checkpoint_of": lambda step: checkpoint.load(checkpoint.folder_of(self.folder.path, step))}
        if not self._writes:
            return Watch(**rhythm)
        report = reporter(config.report_to, self.folder.path, max(first_step, self._first))

        def on_log(line: dict) -> None:
            self.folder.log(line)
            report(line)

        def on_checkpoint(state: StageState) -> None:
            self._save_checkpoint(state, first_step, reference, global_batch(stage_config, self.accelerator.num_processes))

        return Watch(on_log=on_log, on_step=self._on_step, on_sample=preview, on_checkpoint=on_checkpoint,
                     requests=self.folder.requests, **rhythm)

    def _save_checkpoint(self, state: StageState, first_step: int, reference: Backbone, batch: int) -> None:
        position = Position(
            stage=state.stage.name, stage_step=state.step, step=first_step + state.step, validations=state.validations,
            best=state.best, metrics_bytes=self.folder.metrics_bytes(), global_batch=batch,
            processes=self.accelerator.num_processes, identity=self._identity)
        checkpoint.save(
            self.folder.path, position, _learned(self._own, reference, state), state.optimizer, state.learner,
            self.config.checkpoints_kept)

    def _on_step(self, stage: str, step: int) -> None:
        pace = (time.monotonic() - self._begun) / (step - self._first)
        left = pace * (self.status.total_steps - step)
        self.status = self.status.model_copy(update={"stage": stage, "step": step, "eta": round(left, 1)})
        self._write_status()

    @property
    def _writes(self) -> bool:
        return process_rank() == 0

    def _write_status(self) -> None:
        if self._writes:
            self.folder.write_status(self.status)

    def _end(self, state: str, message: str) -> None:
        self.status = self.status.model_copy(update={"state": state, "eta": None, "message": message})
        try:
            self._write_status()
        except OSError as error:  # a full disk: whoever looks finds no process, and tells that it was interrupted
            print(f"the status of {self.folder.id} cannot be written: {error}", file=sys.stderr)

    def _check_targets(self, records: list[Record], reference: Backbone) -> None:
        """An over-long target is refused before anything is encoded."""
        for target in dict.fromkeys(record.target_text for record in records):
            reference.encode_prompts([join_prompt("a", [target])])

    def _written(self, preset: ModelPreset, records: list[Record], reference: Backbone, response: Backbone) -> Customization:
        """The customization, on the disk and read back. Only then the checkpoints go, and the run is called complete."""
        if self._writes:
            tensors = checkpoints.changed_tensors(reference.denoiser.state_dict(), response.denoiser.state_dict())
            saved = checkpoints.save_customization(self._card(preset, records), tensors)
            for path in (*saved.folder.iterdir(), saved.folder, saved.folder.parent):
                sync(path)
        self.accelerator.wait_for_everyone()
        written = checkpoints.customization(self.config.name, preset)
        written.tensors()
        if self._writes:
            checkpoint.remove_all(self.folder.path)
        return written

    def _card(self, preset: ModelPreset, records: list[Record]) -> CustomizationCard:
        config, processes = self.config, self.accelerator.num_processes
        _, held_out = identity.split(len(records), config.validation_split, config.seed)
        summary: dict[str, str | int | float] = {
            "recipe": config.recipe, "pictures": len(records), "validation_pictures": len(held_out), "run": self.folder.id,
            "processes": processes,
            "seconds": round(time.monotonic() - self._begun)}
        if config.initial_customization:
            summary["started_from"] = config.initial_customization
        for name in identity.STAGES:
            stage, summary[f"{name}_steps"] = self._planned.get(name, (None, 0))
            if stage is not None:
                summary[f"{name}_batch_per_device"] = stage.train_batch_size * stage.gradient_accumulation_steps
                summary[f"{name}_global_batch"] = global_batch(stage, processes)
            if (ended := self._ended.get(name)) is not None:
                summary[f"{name}_steps"] = ended.steps
                if ended.kept != ended.steps:
                    summary[f"{name}_kept_step"] = ended.kept
        if config.tiny_decoder:
            summary["enhanced_decoder"] = identity.enhanced_decoder(preset)
        return CustomizationCard(
            name=config.name, model=config.model, model_sha256=checkpoints.denoiser_hash(preset),
            phrases=single_phrases([*(record.target_text for record in records), *self._known], most=MAX_PHRASES),
            stage=config.stage, method=config.method, created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), summary=summary)


def _learned(own: Collection[str], reference: Backbone, state: StageState) -> dict[str, torch.Tensor]:
    """What may tell the response path from the reference: everything that a stage trains, has changed or has added."""
    before = reference.denoiser.state_dict()
    return {name: value for name, value in state.stage.response.denoiser.state_dict().items()
            if name in state.learner.parameters or name in own or name not in before}
