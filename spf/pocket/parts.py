"""A model that is trained part by part: which parts there are, where their checkpoints lie, what is recorded of them."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn
from tqdm import tqdm

from spf.config import ModelPreset, Schema
from spf.errors import TrainingError
from spf.files import replace_folder
from spf.pocket import curve
from spf.pocket.component import Component, begin_from, finished, fit, load_weights, progress_of

RECORD = "training.json"
GUIDANCE_SCALE = 4.0  # of the pictures that a denoiser is judged by while it learns


class PartTraining(ABC):
    """The parts of one preset in the order in which they depend on each other; `train_<part>` trains one."""

    PARTS: tuple[str, ...]
    TOKENIZER = ""  # name of the folder of its own tokenizer, both beside the checkpoints and in what is exported
    config: Schema  # holds a ComponentConfig for every part

    def __init__(self, folder: Path, seed: int, ema_decay: float, device: torch.device, minutes: float):
        self.folder, self.seed, self.ema_decay, self.device = folder, seed, ema_decay, device
        self.deadline = time.monotonic() + 60 * minutes
        folder.mkdir(parents=True, exist_ok=True)

    def run(self, parts: tuple[str, ...] = ()) -> bool:
        """Train the given parts, or all; returns whether they are done. What is finished is not even prepared.

        Raises TrainingError while another process trains in the same folder.
        """
        with self._alone():
            return all(finished(self.folder, part, getattr(self.config, part)) or getattr(self, f"train_{part}")()
                       for part in parts or self.PARTS)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Two trainings in one folder would write over each other's checkpoints. Free again when the process dies."""
        lock = FileLock(self.folder / ".training.lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise TrainingError(f"{self.folder}: another 'pretrain' trains here; wait until it ends, or stop it.") from None
        try:
            yield
        finally:
            lock.release()

    @property
    def complete(self) -> bool:
        """Whether every part has weights, trained to the end or not."""
        return all((self.folder / f"{part}.pt").exists() for part in self.PARTS)

    def export(self, target: Path) -> None:
        """Write the model as it stands to `target`, fp16, replacing what is there only when everything is written."""
        staged = target.with_name(target.name + ".partial")
        shutil.rmtree(staged, ignore_errors=True)
        self.write(staged)
        (staged / RECORD).write_text(json.dumps(self.record(), indent=2))
        replace_folder(staged, target)

    @abstractmethod
    def write(self, folder: Path) -> None:
        """Save the model to a folder that does not exist yet."""

    @abstractmethod
    def read(self, folder: Path) -> dict[str, dict[str, Tensor]]:
        """The weights that `write` saved, by part."""

    @property
    def begun(self) -> bool:
        """Whether any part has weights."""
        return any((self.folder / f"{part}.pt").exists() for part in self.PARTS)

    def adopt(self, folder: Path) -> bool:
        """Go on from the model that `export` wrote to `folder`, where no part has a checkpoint yet. The optimiser begins anew.

        Returns whether it was so. Raises TrainingError if no model is there. To be called before anything else is.
        """
        if self.begun:
            return False
        if not (folder / RECORD).is_file():
            raise TrainingError(f"{folder} holds no {RECORD}; name a model that 'pretrain' wrote, or begin without --adopt.")
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        parts = record["parts"]
        staged = {self.folder / f"{part}.adopted": (part, weights) for part, weights in self.read(folder).items()}
        for path, (part, weights) in staged.items():
            begin_from(path, getattr(self.config, part), weights, parts[part]["samples"], parts[part]["seconds"])
        curve.begin_from(self.folder, record.get("curve", []))
        if self.TOKENIZER:
            shutil.copytree(folder / self.TOKENIZER, self.folder / self.TOKENIZER, dirs_exist_ok=True)
        for path in staged:  # all or none: the autoencoder of one model and the denoiser of another fit no longer
            path.replace(path.with_suffix(".pt"))
        return True

    def scores(self, part: str) -> dict[str, float]:
        """What the last checkpoint of a part can do on a few held-out cases; {} for a part that is judged by others."""
        return {}

    def _denoiser_scores(self, family: str, clip: Path, resolution: int) -> dict[str, float]:
        """Of the model as `export` would write it."""
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            self.write(Path(folder) / "model")
            return curve.denoiser_scores(ModelPreset(
                name=self.folder.name, title=self.folder.name, family=family, clip=str(clip), resolution=resolution,
                pretrained_model_name_or_path=f"{folder}/model", guidance_scale=GUIDANCE_SCALE, base_text="a person",
            ), self.device)

    def _score(self, part: str, samples: int) -> None:
        if scores := self.scores(part):
            tqdm.write(json.dumps(curve.append(self.folder, part, samples, scores)))

    def record(self) -> dict:
        """What was trained on which device for how long; a part's seconds include the scoring at its checkpoints."""
        parts = {}
        for part in self.PARTS:
            progress, config = progress_of(self.folder, part), getattr(self.config, part)
            parts[part] = {"samples": progress.step * config.batch_size, "of": config.samples,
                           "seconds": round(progress.seconds)}
        return {"device": self.device.type, "threads": torch.get_num_threads(), "parts": parts,
                "curve": curve.points(self.folder)}

    def fit(self, component: Component) -> bool:
        return fit(component, self.folder, self.seed, self.ema_decay, self.deadline, self.device,
                   lambda samples: self._score(component.name, samples))

    def trained(self, network: nn.Module, part: str) -> nn.Module:
        """`network` with the averaged weights of its checkpoint. Raises FileNotFoundError before its first one."""
        path = self.folder / f"{part}.pt"
        load_weights(network, torch.load(path, map_location="cpu", weights_only=True)["average"], path)
        return network.eval().requires_grad_(False).to(self.device)
