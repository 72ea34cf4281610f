"""The customizations of an evaluation. They are trained by the command line that everybody uses, in a library of their own."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from spf.backbones import checkpoints
from spf.config import REPOSITORY, EvaluatedMethod, EvaluationConfig, ModelPreset, TrainConfig, train_config
from spf.data.metadata import MASKS
from spf.data.writer import write_folder
from spf.errors import InvalidInput, TrainingError
from spf.evaluation.shards import one_at_a_time
from spf.evaluation.store import fingerprint, key_of
from spf.library import CARD, Customization, CustomizationCard
from spf.pocket.dataset import examples, target_masks, write_masks

_NO_MATTER = {"name", "data", "initial_customization", "sample_every", "log_every", "checkpoint_every", "checkpoints_kept",
              "report_to", "cache_gb"}
_NEW = {"reference_precision", "tiny_decoder", "aspect_ratio_buckets",
        "snr_gamma"}  # in the key only where used: earlier weights stay valid
NEVER = 10**6  # steps: nobody watches these runs, and no weights depend on validations unless they may end a run
# What a launcher tells its processes: a shard trains alone, so its training must not wait for the others.
LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")
Train = Callable[[dict[str, Any], Path], None]


@lru_cache(maxsize=4)
def model_key(preset: ModelPreset) -> str:
    """Changes with any weights of a model: the denoiser's, and where it lies in a folder those of all other parts."""
    folder = REPOSITORY / preset.pretrained_model_name_or_path
    others = [path for path in folder.glob("*/") if path.name not in ("unet", "transformer")] if folder.is_dir() else []
    return key_of(denoiser=checkpoints.denoiser_hash(preset), others=fingerprint(*others))


@dataclass(frozen=True, eq=False)
class Trainer:
    """Makes sure that the weights of a row and a target exist. `train` is given CLI values and the library to train into."""

    config: EvaluationConfig
    preset: ModelPreset
    folder: Path
    train: Train

    def customization(self, row: str, target: str, method: EvaluatedMethod | None = None) -> Customization | None:
        """The weights of a row for a target, or for several joined by '+'; None where the original model itself samples.

        Trains them first where they are missing. `method` replaces the row's own settings.
        """
        method = method or self.config.methods[row]
        if ready := method.ready(target):
            return checkpoints.customization(ready, self.preset)
        start = self.customization(method.start, target) if method.start else None
        if method.train is None:
            return start
        if start and start.folder.parent.parent != self.folder:
            raise InvalidInput(f"methods.{row}.start", f"'{method.start}' is not trained here; give it 'train' settings")
        name = f"{row}-{self.key(row, target, method)}"[-64:].lstrip("-._")
        if (found := self._read(name)) is None:
            self.train(self._values(name, target, method, start), self.folder)
            found = self._read(name)
        if found is None:
            raise TrainingError(f"evaluate: training '{row}' on '{target}' wrote no customization; look at its run folder.")
        return found

    def key(self, row: str, target: str, method: EvaluatedMethod | None = None) -> str:
        """Changes with everything that the weights depend on; '' where the original model itself samples."""
        method = method or self.config.methods[row]
        if ready := method.ready(target):
            found = checkpoints.customization(ready, self.preset)
            return key_of(folder=found.folder, version=found.version)
        start = self.key(method.start, target) if method.start else ""
        if method.train is None:
            return start
        return key_of(settings=self._settings(method), start=start, data=self._data(target),
                      model=model_key(self.preset))[:12]

    def _asked(self, method: EvaluatedMethod) -> dict[str, Any]:
        return {**self.config.train, **(method.train or {})}

    def _settings(self, method: EvaluatedMethod) -> dict[str, Any]:
        """The whole training configuration, so that another default gives another key; without what no weight depends on."""
        settings = train_config(self.config.preset, {
            "model": self.config.model, "name": "x", "data": "x", "seed": self.config.seed, **self._asked(method)})
        unused = {name for name in _NEW if getattr(settings, name) == TrainConfig.model_fields[name].default}
        unused |= {"1": {"stage2"}, "2": {"stage1"}}.get(settings.stage, set())
        return settings.model_dump(mode="json", exclude=_NO_MATTER | unused)

    def _values(self, name: str, target: str, method: EvaluatedMethod, start: Customization | None) -> dict[str, Any]:
        values = {"model": self.config.model, "name": name, "data": str(self._data_folder(target)), "seed": self.config.seed,
                  "preset": self.config.preset, **self._asked(method), "sample_every": 0}
        if not self._settings(method)["early_stop_patience"]:
            values["validate_every"] = NEVER
        return values | ({"initial_customization": start.card.name} if start else {})

    def _data(self, target: str) -> list[Any]:
        return [target, self.config.pictures, self.config.seed, self.preset.resolution]

    def _data_folder(self, target: str) -> Path:
        """The rendered training pictures of a target, or of several."""
        folder = self.folder / "data" / f"{target}-{key_of(data=self._data(target))[:8]}"
        with one_at_a_time(folder):
            if not (folder / MASKS).exists():  # written last
                parts = [(part, *self._data(target)[1:]) for part in target.split("+")]
                write_folder(folder, itertools.chain.from_iterable(itertools.starmap(examples, parts)))
                write_masks(folder, itertools.chain.from_iterable(itertools.starmap(target_masks, parts)))  # for TokenCompose
        return folder

    def _read(self, name: str) -> Customization | None:
        folder = self.folder / "customizations" / name
        try:
            card = CustomizationCard(**json.loads((folder / CARD).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        return Customization(card, folder) if card.model_sha256 == checkpoints.denoiser_hash(self.preset) else None


def train_by_command(values: dict[str, Any], library: Path, device: str, lease: str) -> None:
    """Run `python -m spf train` with these values and `library` as its home. Raises TrainingError with its last words.

    It waits until `lease`, its part of the device, is free. If another shard, or what is left of a killed evaluation, trains
    the same, it waits for that instead.
    """
    flags = {key: values[key] for key in _FLAGS if values.get(key) is not None}
    command = [sys.executable, "-m", "spf", "train", "--device", device, "--once", lease]
    command += [word for key, value in flags.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    command += [word for key, value in values.items() if key not in _FLAGS for word in ("--set", f"{key}={json.dumps(value)}")]
    env = {key: value for key, value in os.environ.items() if key not in LAUNCHER} | {"SPF_HOME": str(library)}
    log = library / "logs" / f"{values['name']}.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "w", encoding="utf-8") as file:
        done = subprocess.run(command, cwd=REPOSITORY, env=env, stdout=file, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        words = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["it said nothing"]
        raise TrainingError(f"evaluate: training '{values['name']}' failed ({words[-1]}); its log is {log}.")


_FLAGS = ("data", "name", "model", "preset", "stage", "initial_customization")
