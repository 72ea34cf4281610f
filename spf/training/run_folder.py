"""A run on disk: what was asked for, how far it is, every number it logged, and its preview pictures.

`runs/<id>/{config.yaml,status.json,metrics.jsonl,log.txt,samples/,checkpoint-<step>/}`. Whoever watches only reads;
status.json is replaced whole, so a reader never sees half of it. Whoever wants something of the training process leaves
an empty file `cancel`, `pause`, `save` or `sample`, at which it looks before every step.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from PIL import Image
from pydantic import Field

from spf.config import Schema, TrainConfig, load_yaml, parse
from spf.errors import SpfError, TrainingError
from spf.files import sync
from spf.training.process import birth

State = Literal["queued", "running", "paused", "completed", "failed", "cancelled", "interrupted"]
FINAL_STATES = ("paused", "completed", "failed", "cancelled", "interrupted")  # no process works on the run any more
REQUESTS = ("cancel", "pause", "save", "sample")


class RunStatus(Schema):
    """`status.json`. Times are seconds since the epoch, durations seconds."""

    state: State
    stage: str = ""  # "stage1" or "stage2" while running
    step: int = 0  # of both stages together
    total_steps: int = 0
    started: float = Field(default_factory=time.time)
    updated: float = Field(default_factory=time.time)
    eta: float | None = None  # seconds left; None while unknown
    pid: int | None = None
    pid_created: float | None = None  # its `process.birth`
    message: str = ""  # why it failed, or which customization was written

    @classmethod
    def of_this_process(cls, state: State) -> RunStatus:
        return cls(state=state, pid=os.getpid(), pid_created=birth(os.getpid()))


@dataclass(frozen=True)
class RunFolder:
    path: Path

    @property
    def id(self) -> str:
        return self.path.name

    @classmethod
    def create(cls, root: Path, config: TrainConfig) -> RunFolder:
        """A new folder named after the time and the customization, with its config.yaml and a queued status.

        The status names this process, which has the run until it hands it on: without one the run would look abandoned.
        """
        stamp, number = time.strftime("%Y%m%d-%H%M%S"), 0
        while True:
            path = root / f"{stamp}-{config.name}{f'-{number}' if number else ''}"
            try:
                path.mkdir(parents=True)
                break
            except FileExistsError:
                number += 1
        (path / "samples").mkdir()
        folder = cls(path)
        folder.write_config(config)
        folder.write_status(RunStatus.of_this_process("queued"))
        return folder

    def write_config(self, config: TrainConfig) -> None:
        _replace(self.path / "config.yaml", yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), durably=True)

    def config(self) -> TrainConfig:
        """Raises InvalidInput naming the file if it is missing or damaged."""
        return parse(TrainConfig, load_yaml(self.path / "config.yaml"))

    def status(self) -> RunStatus:
        """Raises TrainingError if there is none that can be read."""
        path = self.path / "status.json"
        try:
            return parse(RunStatus, json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, SpfError):
            raise TrainingError(f"run: {path} is missing or damaged; delete the folder of this run.") from None

    def write_status(self, status: RunStatus) -> None:
        text = status.model_copy(update={"updated": time.time()}).model_dump_json(indent=2)
        _replace(self.path / "status.json", text, durably=status.state in FINAL_STATES)

    def log(self, values: dict[str, Any]) -> None:
        """Append one line to metrics.jsonl."""
        with open(self.path / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(values, allow_nan=False) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """Every whole line logged so far; what is being written, or was cut off when a process died, is left out."""
        try:
            lines = (self.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        except FileNotFoundError:
            return []
        return [values for line in lines if line.endswith("\n") and (values := _read_line(line)) is not None]

    def metrics_bytes(self) -> int:
        """Length of metrics.jsonl."""
        path = self.path / "metrics.jsonl"
        return path.stat().st_size if path.exists() else 0

    def cut_metrics(self, length: int) -> None:
        """Forget the lines beyond `length` bytes: the steps they tell of are about to be done again."""
        if self.metrics_bytes() > length:
            os.truncate(self.path / "metrics.jsonl", length)

    def save_sample(self, step: int, original: Image.Image, customized: Image.Image, sfcm: np.ndarray) -> None:
        """Preview pictures of one step: original | customized | SFCM (H, W) in [0, 1]."""
        gray = Image.fromarray((sfcm * 255).round().astype(np.uint8)).resize(original.size, Image.Resampling.BILINEAR)
        for name, image in (("original", original), ("customized", customized), ("sfcm", gray)):
            path = self.path / "samples" / f"step_{step:06d}_{name}.png"
            image.save(path.with_suffix(".partial"), format="PNG")
            os.replace(path.with_suffix(".partial"), path)

    def samples(self) -> list[dict[str, Any]]:
        """[{"step", "original", "customized", "sfcm"}] with paths, oldest first; only complete triples."""
        found = []
        for path in sorted((self.path / "samples").glob("step_*_sfcm.png")):
            step = int(path.name.split("_")[1])
            found.append({"step": step, **{
                name: path.with_name(f"step_{step:06d}_{name}.png") for name in ("original", "customized", "sfcm")}})
        return found

    def log_tail(self, lines: int = 40) -> str:
        try:
            return "\n".join((self.path / "log.txt").read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
        except FileNotFoundError:
            return ""

    def request(self, what: str) -> None:
        """Ask the training process for one of REQUESTS. Raises TrainingError if the folder is gone."""
        try:
            (self.path / what).touch()
        except OSError as error:
            raise TrainingError(f"run: {self.path} cannot be written ({error.strerror}); look after the disk.") from None

    def requests(self) -> tuple[str, ...]:
        """What is asked for. Cancel and pause stay, so that the page can tell; save and sample are taken off."""
        asked = tuple(what for what in REQUESTS if (self.path / what).exists())
        for what in asked:
            if what in ("save", "sample"):
                (self.path / what).unlink(missing_ok=True)
        return asked

    def clear_requests(self) -> None:
        for what in REQUESTS:
            (self.path / what).unlink(missing_ok=True)

    def request_cancel(self) -> None:
        self.request("cancel")

    def cancel_requested(self) -> bool:
        return (self.path / "cancel").exists()


def _read_line(line: str) -> dict[str, Any] | None:
    try:
        values = json.loads(line)
    except ValueError:
        return None
    return values if isinstance(values, dict) else None


def _replace(path: Path, text: str, durably: bool) -> None:
    """`durably`: on the disk before it takes the place of what was there. Too slow for what is written at every step."""
    staged = path.with_name(path.name + ".partial")
    staged.write_text(text, encoding="utf-8")
    if durably:
        sync(staged)
    os.replace(staged, path)
