"""A model that is trained part by part: which parts there are, where their checkpoints lie, what is recorded of them."""

from __future__ import annotations

import json
import shutil
import time
from abc import ABC, abstractmethod
from pathlib import Path

import torch
from torch import nn

from spf.config import Schema
from spf.files import replace_folder
from spf.pocket.component import Component, finished, fit, progress_of


class PartTraining(ABC):
    """The parts of one preset in the order in which they depend on each other; `train_<part>` trains one."""

    PARTS: tuple[str, ...]
    config: Schema  # holds a ComponentConfig for every part

    def __init__(self, folder: Path, seed: int, ema_decay: float, device: torch.device, minutes: float):
        self.folder, self.seed, self.ema_decay, self.device = folder, seed, ema_decay, device
        self.deadline = time.monotonic() + 60 * minutes
        folder.mkdir(parents=True, exist_ok=True)

    def run(self, parts: tuple[str, ...] = ()) -> bool:
        """Train the given parts, or all; returns whether they are done. What is finished is not even prepared."""
        return all(finished(self.folder, part, getattr(self.config, part)) or getattr(self, f"train_{part}")()
                   for part in parts or self.PARTS)

    @property
    def complete(self) -> bool:
        """Whether every part has weights, trained to the end or not."""
        return all((self.folder / f"{part}.pt").exists() for part in self.PARTS)

    def export(self, target: Path) -> None:
        """Write the model as it stands to `target`, fp16, replacing what is there only when everything is written."""
        staged = target.with_name(target.name + ".partial")
        shutil.rmtree(staged, ignore_errors=True)
        self.write(staged)
        (staged / "training.json").write_text(json.dumps(self.record(), indent=2))
        replace_folder(staged, target)

    @abstractmethod
    def write(self, folder: Path) -> None:
        """Save the model to a folder that does not exist yet."""

    def record(self) -> dict:
        """What was trained on which device for how long; a part's seconds are those of its training loop."""
        parts = {}
        for part in self.PARTS:
            progress, config = progress_of(self.folder, part), getattr(self.config, part)
            parts[part] = {"samples": progress.step * config.batch_size, "of": config.samples,
                           "seconds": round(progress.seconds)}
        return {"device": self.device.type, "threads": torch.get_num_threads(), "parts": parts}

    def fit(self, component: Component) -> bool:
        return fit(component, self.folder, self.seed, self.ema_decay, self.deadline, self.device)

    def trained(self, network: nn.Module, part: str) -> nn.Module:
        """`network` with the averaged weights of its checkpoint. Raises FileNotFoundError before its first one."""
        state = torch.load(self.folder / f"{part}.pt", map_location="cpu", weights_only=True)
        network.load_state_dict(state["average"])
        return network.eval().requires_grad_(False).to(self.device)
