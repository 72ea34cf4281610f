"""The training loop. It knows no equation: stage -> backward -> clip -> step -> log."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from tqdm import tqdm

from spf.config import StageConfig
from spf.data.batches import Examples, rows
from spf.errors import Cancelled, TrainingError
from spf.method.losses import total_loss
from spf.training.stages import Stage, set_trainable


@dataclass
class Watch:
    """What the loop reports, and to whom. All callables are optional; none may touch the model's gradients."""

    on_log: Callable[[dict[str, Any]], None] = lambda values: None
    on_step: Callable[[str, int], None] = lambda stage, step: None  # after every step
    on_sample: Callable[[Stage, int], None] = lambda stage, step: None  # every `sample_every` steps
    is_cancelled: Callable[[], bool] = lambda: False
    log_every: int = 1
    sample_every: int = 50
    first_step: int = field(default=0)  # steps of earlier stages, so that step numbers go on


def steps_of(config: StageConfig, examples: int) -> int:
    """How many steps a stage takes over so many pictures."""
    return config.max_train_steps or math.ceil(examples * config.num_train_epochs / config.train_batch_size)


def train_stage(stage: Stage, examples: Examples, config: StageConfig, seed: int, watch: Watch) -> None:
    """Train `stage.response` in place. Raises Cancelled, or TrainingError when a loss is not finite."""
    accelerator = Accelerator(cpu=examples.latents.device.type == "cpu")
    parameters = set_trainable(stage.response, config.trainable)
    optimizer = torch.optim.AdamW(
        parameters, lr=config.learning_rate, betas=(config.adam_beta1, config.adam_beta2),
        weight_decay=config.adam_weight_decay, fused=True)
    generator, steps, started = torch.Generator(), steps_of(config, len(examples)), time.perf_counter()
    try:
        for step in tqdm(range(steps), desc=stage.name, unit="step", mininterval=1):
            if watch.is_cancelled():
                raise Cancelled("Training was cancelled.")
            generator.manual_seed((seed * 1_000_003 + step) % 2**63)  # noise and timesteps depend on (seed, step) only
            batch = examples[rows(seed, step, len(examples), config.train_batch_size)]
            _set_learning_rate(optimizer, config, step)
            values = _step(accelerator, stage, batch, generator, optimizer, config.max_grad_norm)
            if step % watch.log_every == 0 or step + 1 == steps:
                seconds = (time.perf_counter() - started) / (step + 1)
                watch.on_log(_logged(stage.name, watch.first_step + step, values, seconds, optimizer))
            watch.on_step(stage.name, watch.first_step + step + 1)
            if (step + 1) % watch.sample_every == 0 or step + 1 == steps:
                watch.on_sample(stage, watch.first_step + step + 1)
    finally:
        for parameter in parameters:
            parameter.requires_grad_(False)


def _step(accelerator: Accelerator, stage: Stage, batch: Examples, generator: torch.Generator,
          optimizer: torch.optim.Optimizer, max_grad_norm: float) -> dict[str, torch.Tensor]:
    losses, report = stage.training_forward(batch, generator)
    total = total_loss(losses)
    accelerator.backward(total)
    norm = accelerator.clip_grad_norm_(optimizer.param_groups[0]["params"], max_grad_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    terms = {f"{name}_loss": value.detach() for name, value in losses.items()}
    return {"loss": total.detach(), **terms, "grad_norm": norm, **report}


def _set_learning_rate(optimizer, config: StageConfig, step: int) -> None:
    warm = min(1.0, (step + 1) / (config.lr_warmup_steps + 1))
    for group in optimizer.param_groups:
        group["lr"] = config.learning_rate * warm


def _logged(stage: str, step: int, values: dict[str, torch.Tensor], seconds: float, optimizer) -> dict[str, Any]:
    """One line of metrics: the only place where numbers leave the device. Raises TrainingError naming the broken term."""
    numbers = {name: float(value) for name, value in values.items()}
    broken = [name for name, value in numbers.items() if not math.isfinite(value)]
    if broken:
        raise TrainingError(
            f"{stage}, step {step}: {', '.join(broken)} is not a finite number; lower the learning rate of this stage.")
    return {"stage": stage, "step": step, **{name: round(value, 6) for name, value in numbers.items()},
            "lr": optimizer.param_groups[0]["lr"], "seconds_per_step": round(seconds, 4)}
