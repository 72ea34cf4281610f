"""The training loop. It knows no equation: stage -> backward -> clip -> step -> watch."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from spf.backbones.trainables import Learner, learning
from spf.config import StageConfig
from spf.data.batches import Examples
from spf.errors import Cancelled, Paused
from spf.method.losses import total_loss
from spf.training.checkpoint import Best, Checkpoint
from spf.training.devices import accelerator_for, from_first
from spf.training.draws import Draws
from spf.training.ledger import DivergenceGuard, Ledger
from spf.training.optimizer import optimizer_for
from spf.training.stages import Stage

Request = Literal["cancel", "pause", "save", "sample"]
VALIDATION_SEED = 1_234_567  # held-out pictures meet the same noise every time


@dataclass(frozen=True, eq=False)
class StageState:
    """A stage between two steps: with the configuration, all that its future depends on."""

    stage: Stage
    step: int  # steps done in this stage
    learner: Learner
    optimizer: torch.optim.Optimizer
    validations: tuple[float, ...]
    best: Best | None = None


@dataclass(frozen=True)
class Ended:
    """How a stage ended: steps done in it, and after how many of them it had the weights that it leaves."""

    steps: int
    kept: int


@dataclass
class Watch:
    """What the loop reports and to whom, and who may ask it for something. None may touch the model's gradients."""

    on_log: Callable[[dict[str, Any]], None] = lambda values: None
    on_step: Callable[[str, int], None] = lambda stage, step: None  # after every step
    on_sample: Callable[[Stage, int], None] = lambda stage, step: None
    on_checkpoint: Callable[[StageState], None] = lambda state: None
    requests: Callable[[], Collection[Request]] = tuple  # looked at before every step
    held_out: Examples | None = None  # pictures that are never trained on
    log_every: int = 1
    sample_every: int = 50
    validate_every: int = 50
    checkpoint_every: int = 0
    early_stop_patience: int = 0
    checkpoint_of: Callable[[int], Checkpoint] | None = None  # reads again what `on_checkpoint` wrote, by the step of the run
    divergence_factor: float = 0.0
    first_step: int = 0  # steps of earlier stages, so that step numbers go on


def steps_of(config: StageConfig, examples: int, processes: int = 1) -> int:
    """How many steps a stage takes over so many pictures."""
    return config.max_train_steps or math.ceil(examples * config.num_train_epochs / global_batch(config, processes))


def global_batch(config: StageConfig, processes: int = 1) -> int:
    """Samples per step over all devices (D23 counts those of one device)."""
    return config.train_batch_size * config.gradient_accumulation_steps * processes


def train_stage(stage: Stage, examples: Examples, config: StageConfig, seed: int, watch: Watch,
                accelerator: Accelerator | None = None, resumed: Checkpoint | None = None) -> Ended:
    """Train `stage.response` in place, from its first step or from a checkpoint of this stage.

    With `watch.early_stop_patience` a stage that aligns leaves the weights of its best validation, not the last ones.
    Raises Cancelled, Paused (after a checkpoint), or TrainingError when a loss is not finite or runs away.
    """
    accelerator = accelerator or accelerator_for(examples.latents.device)
    steps = steps_of(config, len(examples), accelerator.num_processes)
    try:
        with learning(stage.response, config, steps, seed) as learner:
            return _Training(stage, examples, config, seed, watch, accelerator, learner, steps, resumed).run()
    finally:
        accelerator.free_memory()


class _Forward(nn.Module):
    """A stage as the module whose gradients accelerate averages over devices."""

    def __init__(self, stage: Stage, learner: Learner):
        super().__init__()
        self.denoiser, self._stage, self._learner = stage.response.denoiser, stage, learner

    def forward(self, batch: Examples, generator: torch.Generator) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        losses, report = self._stage.training_forward(batch, generator)
        return losses | self._learner.losses(), report


class _Training:
    """One stage on its way. What a step sees and draws is a function of (seed, step) and the global batch alone."""

    def __init__(self, stage: Stage, examples: Examples, config: StageConfig, seed: int, watch: Watch,
                 accelerator: Accelerator, learner: Learner, steps: int, resumed: Checkpoint | None):
        self.stage, self.examples, self.config, self.seed, self.watch = stage, examples, config, seed, watch
        self.accelerator, self.learner, self.steps = accelerator, learner, steps
        self.optimizer = optimizer_for(learner.parameters.values(), config)
        self.forward = accelerator.prepare(_Forward(stage, learner))
        self.ledger = Ledger(
            stage.name, watch.first_step, watch.on_log, DivergenceGuard(watch.divergence_factor), accelerator)
        self.done, self.saved, self.validations, self.best = 0, -1, (), None
        if resumed is not None:
            self._go_on_from(resumed)

    def _go_on_from(self, checkpoint: Checkpoint) -> None:
        checkpoint.restore_weights(self.stage.response.denoiser)
        checkpoint.restore_optimizer(self.optimizer, self.learner.parameters)
        self.learner.restore(checkpoint.learner())
        checkpoint.restore_random()
        self.done = self.saved = checkpoint.position.stage_step
        self.validations = checkpoint.position.validations
        self.best = checkpoint.position.best if self.watch.early_stop_patience else None

    def run(self) -> Ended:
        show = tqdm(total=self.steps, initial=self.done, desc=self.stage.name, unit="step", mininterval=1,
                    disable=not self.accelerator.is_main_process)
        with show:
            while self.done < self.steps and not self._has_stopped_improving():
                self._obey(from_first(tuple(self.watch.requests()), self.accelerator))
                self._one_step()
                show.update()
        return Ended(self.done, self._go_back_to_best())

    def _obey(self, requests: Collection[Request]) -> None:
        if "cancel" in requests:
            raise Cancelled("Training was cancelled.")
        if "save" in requests or "pause" in requests:
            self._save()
        if "pause" in requests:
            raise Paused(f"Training is paused after step {self.watch.first_step + self.done}; resume it to go on.")
        if "sample" in requests:
            self.watch.on_sample(self.stage, self.watch.first_step + self.done)

    def _one_step(self) -> None:
        step, watch = self.done, self.watch
        rate = _set_learning_rate(self.optimizer, learning_rate(self.config, step, self.steps))
        values = self._update(step)
        self.done = step + 1
        last = self.done == self.steps
        measured = self._validate() if last or self.done % watch.validate_every == 0 else {}
        wanted = last or bool(measured) or step % watch.log_every == 0
        self.ledger.add(step, values, rate, wanted, measured)
        watch.on_step(self.stage.name, watch.first_step + self.done)
        last = last or self._has_stopped_improving()
        if watch.sample_every and (last or self.done % watch.sample_every == 0):
            watch.on_sample(self.stage, watch.first_step + self.done)
        if self._is_best or watch.checkpoint_every and (last or self.done % watch.checkpoint_every == 0):
            self._save()
        if last:
            self.ledger.look()

    def _update(self, step: int) -> dict[str, Tensor]:
        """One optimizer step over the global batch; the mean of this device's numbers."""
        batches, processes = self.config.gradient_accumulation_steps, self.accelerator.num_processes
        parts, sums = batches * processes, {}
        for index in range(batches):
            part = index * processes + self.accelerator.process_index
            batch = self.examples.of_step(self.seed, step, self.config.train_batch_size, part, parts)
            draws = Draws.of_step(self.seed, step, part, parts)
            with nullcontext() if index + 1 == batches else self.accelerator.no_sync(self.forward):
                losses, report = self.forward(batch, draws)
                total = total_loss(losses)
                self.accelerator.backward(total / batches)
            terms = {f"{name}_loss": value for name, value in losses.items()}
            for name, value in {"loss": total, **terms, **report}.items():
                sums[name] = sums.get(name, 0) + value.detach() / batches
        norm = self.accelerator.clip_grad_norm_(self.learner.parameters.values(), self.config.max_grad_norm)
        self.optimizer.step()
        self.learner.after_step()
        self.optimizer.zero_grad(set_to_none=True)
        return sums | {"grad_norm": norm}

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        """The losses on held-out pictures, always under the same noise; every process computes the same."""
        held_out, size = self.watch.held_out, self.config.train_batch_size
        if held_out is None:
            return {}
        sums: dict[str, Tensor] = {}
        seen = 0
        for batch in held_out.in_batches(size):
            with self.accelerator.autocast():
                losses, _ = self.stage.training_forward(batch, Draws.of_step(VALIDATION_SEED, seen))
            seen += len(batch)
            for name, value in {"": total_loss(losses), **losses}.items():
                sums[name] = sums.get(name, 0) + value * (len(batch) / len(held_out))
        values = from_first(torch.stack(list(sums.values())).tolist(), self.accelerator)  # all must decide alike
        means = dict(zip(sums, values, strict=True))
        result = {"validation_loss": means[""], "validation_diff": means.get("diff", means[""])}
        if terms := [means[name] for name in getattr(self.stage, "preservation_terms", ()) if name in means]:
            result["validation_preservation"] = sum(terms)
            self._compare(sum(terms))
        return result

    def _compare(self, preservation: float) -> None:
        self.validations = (*self.validations, preservation)
        better = self.best is None or preservation < self.best.preservation
        if better and self.watch.early_stop_patience:
            self.best = Best(step=self.watch.first_step + self.done, preservation=preservation)

    @property
    def _is_best(self) -> bool:
        return self.best is not None and self.best.step == self.watch.first_step + self.done

    def _go_back_to_best(self) -> int:
        """Take the weights of the best validation, if it was not the last; the step of this stage that they are of."""
        if self.best is None or self._is_best or self.watch.checkpoint_of is None:
            return self.done
        self.accelerator.wait_for_everyone()  # process 0 may still be writing
        found = self.watch.checkpoint_of(self.best.step)
        found.restore_weights(self.stage.response.denoiser)
        self.learner.restore(found.learner())
        self.watch.on_sample(self.stage, self.watch.first_step + self.done)  # the last preview shows what is left
        return found.position.stage_step

    def _has_stopped_improving(self) -> bool:
        return has_stopped_improving(self.validations, self.watch.early_stop_patience)

    def _save(self) -> None:
        """A checkpoint of the state between two steps, once everything before it is known to be sound."""
        self.ledger.look()
        if self.saved != self.done:
            self.watch.on_checkpoint(
                StageState(self.stage, self.done, self.learner, self.optimizer, self.validations, self.best))
            self.saved = self.done


def has_stopped_improving(losses: Collection[float], patience: int) -> bool:
    """Whether none of the last `patience` losses was below all earlier ones; never for a patience of 0."""
    losses = list(losses)
    return 0 < patience < len(losses) and min(losses[-patience:]) >= min(losses[:-patience])


def learning_rate(config: StageConfig, step: int, steps: int) -> float:
    """Of one step, 0 <= step < steps: a linear warm-up, then what `lr_scheduler` says."""
    if step < config.lr_warmup_steps:
        return config.learning_rate * (step + 1) / (config.lr_warmup_steps + 1)
    if config.lr_scheduler == "constant":
        return config.learning_rate
    progress = (step - config.lr_warmup_steps) / max(steps - config.lr_warmup_steps, 1)
    return config.learning_rate * (1 + math.cos(math.pi * progress)) / 2


def _set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> float:
    for group in optimizer.param_groups:
        group["lr"] = value
    return value
