"""The numbers of every step: gathered on the device, looked at every few steps, refused when they are no numbers."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from accelerate import Accelerator
from torch import Tensor

from spf.errors import TrainingError

LOOK_EVERY = 3  # steps between looks on an accelerator, where each look waits for it; on the CPU every step
_SUFFIX = "_loss"


@dataclass
class DivergenceGuard:
    """Notices a loss that leaves for good: `PATIENCE` steps in a row above `factor` times its lowest running mean."""

    factor: float
    mean: float = math.nan
    lowest: float = math.inf
    steps: int = 0
    above: int = 0

    PATIENCE = 3
    WARM_UP = 10  # steps before the running mean says anything

    def diverges(self, loss: float) -> bool:
        self.steps += 1
        self.above = self.above + 1 if self.factor and loss > self.factor * self.lowest else 0
        self.mean = loss if math.isnan(self.mean) else 0.9 * self.mean + 0.1 * loss
        if self.steps >= self.WARM_UP and self.above == 0:
            self.lowest = min(self.lowest, self.mean)
        return self.above >= self.PATIENCE


@dataclass
class _Entry:
    step: int
    names: tuple[str, ...]
    values: Tensor  # Shape: (names,), on the device
    lr: float
    seconds: float
    wanted: bool  # whether it becomes a line
    extra: Mapping[str, float]


class Ledger:
    """The lines of one stage. `first_step` is what earlier stages took; `guard` judges the total."""

    def __init__(self, stage: str, first_step: int, on_log: Callable[[dict[str, Any]], None], guard: DivergenceGuard,
                 accelerator: Accelerator):
        self.stage, self.first_step, self._on_log, self._guard = stage, first_step, on_log, guard
        self._accelerator, self._pending, self._last = accelerator, [], time.perf_counter()
        self._every = 1 if accelerator.device.type == "cpu" else LOOK_EVERY

    def add(self, step: int, values: Mapping[str, Tensor], lr: float, wanted: bool, extra: Mapping[str, float]) -> None:
        """Take in a step's numbers: 'loss', its weighted '*_loss' terms, 'grad_norm', and what the stage reports.

        A `wanted` step becomes a line, to which `extra` is added.
        """
        now = time.perf_counter()
        stacked = torch.stack([value.detach().float() for value in values.values()])
        self._pending.append(_Entry(step, tuple(values), stacked, lr, now - self._last, wanted, extra))
        self._last = now
        if len(self._pending) >= self._every:
            self.look()

    def look(self) -> None:
        """Fetch what is pending, all devices' mean. Raises TrainingError naming the term that broke or ran away."""
        if not self._pending:
            return
        pending, self._pending = self._pending, []
        table = self._accelerator.reduce(torch.stack([entry.values for entry in pending]), "mean").tolist()
        memory = round(used_memory(self._accelerator.device) / 1e9, 3)
        for entry, row in zip(pending, table, strict=True):
            numbers = dict(zip(entry.names, row, strict=True))
            self._check(self.first_step + entry.step, numbers, entry.extra)
            if entry.wanted:
                self._on_log({
                    "stage": self.stage, "step": self.first_step + entry.step,
                    **{name: round(value, 6) for name, value in numbers.items()}, **shares(numbers),
                    **{name: round(value, 6) for name, value in entry.extra.items()},
                    "lr": entry.lr, "seconds_per_step": round(entry.seconds, 4), "memory_gb": memory})

    def _check(self, step: int, numbers: dict[str, float], extra: Mapping[str, float]) -> None:
        where = f"{self.stage}, step {step}"
        if broken := [name for name, value in {**numbers, **extra}.items() if not math.isfinite(value)]:
            raise TrainingError(
                f"{where}: {', '.join(broken)} is not a finite number; lower the learning rate of this stage.")
        if self._guard.diverges(numbers["loss"]):
            terms = {name: abs(value) for name, value in numbers.items() if name.endswith(_SUFFIX)}
            worst = max(terms, key=terms.get, default="loss")
            raise TrainingError(
                f"{where}: the loss is {numbers['loss'] / self._guard.lowest:,.0f} times as high as it was, most of it "
                f"{worst}; lower the learning rate of this stage.")


def shares(numbers: Mapping[str, float]) -> dict[str, float]:
    """What part of the total each '<term>_loss' is, as '<term>_share'; none where the total is 0."""
    total = numbers["loss"]
    return {name.removesuffix(_SUFFIX) + "_share": round(value / total, 4)
            for name, value in numbers.items() if name.endswith(_SUFFIX) and total}


def used_memory(device: torch.device) -> int:
    """Bytes: the highest amount that tensors took on an accelerator, or what this process has on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return psutil.Process().memory_info().rss
