"""Where a training run stands, on disk: `checkpoint-<step>/`, complete or not there at all.

Everything is written into a hidden folder beside it, the manifest last, brought to the disk, and renamed. Whoever is
killed in between leaves a hidden folder that nobody lists. Safetensors and JSON only.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from spf.backbones.trainables import Learner
from spf.config import Schema, parse
from spf.errors import CheckpointError, DiskFull, SpfError, TrainingError
from spf.files import is_disk_full, replace_folder, sync

MANIFEST = "manifest.json"
WEIGHTS, OPTIMIZER, LEARNER, RANDOM = (
    f"{name}.safetensors" for name in ("weights", "optimizer", "learner", "random"))
_MARGIN = 2**20  # bytes for the manifest, and what a file system keeps for itself
_NAME = re.compile(r"checkpoint-(\d{1,9})")
_DAMAGED = (OSError, ValueError, KeyError, SafetensorError, SpfError)


class Best(Schema):
    """The validation of a stage that preserved best so far. The checkpoint of its step stays until the run is done."""

    step: int  # steps done in all stages
    preservation: float


class Position(Schema):
    """Where a run stands, and what it was started with. The learning rate and the data order follow from the steps."""

    stage: str
    stage_step: int  # steps done in this stage
    step: int  # steps done in all stages
    validations: tuple[float, ...] = ()  # preservation so far in this stage; early stopping looks at them
    best: Best | None = None  # whose weights an early stop ends with
    metrics_bytes: int = 0  # length of metrics.jsonl; a resumed run cuts off what came after
    global_batch: int  # samples per step over all devices
    processes: int = 1
    identity: dict[str, Any]  # what must be the same for a resumed run


class FileFacts(Schema):
    size: int
    sha256: str


class Manifest(Schema):
    format: Literal[1] = 1
    files: dict[str, FileFacts]
    position: Position


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files are all there and unchanged."""

    path: Path
    position: Position

    def weight_names(self) -> list[str]:
        with safe_open(self.path / WEIGHTS, framework="pt") as file:
            return list(file.keys())

    def learner(self) -> dict[str, Tensor]:
        """What the parametrisation of the stage keeps besides its parameters."""
        return load_file(self.path / LEARNER)

    def restore_weights(self, denoiser: nn.Module) -> None:
        """Put the saved tensors into the response path. Raises CheckpointError if they do not fit."""
        own, saved = denoiser.state_dict(), load_file(self.path / WEIGHTS)
        wrong = [name for name, value in saved.items() if name not in own or own[name].shape != value.shape]
        if wrong:
            raise CheckpointError(f"resume: the tensor '{wrong[0]}' of {self.path / WEIGHTS} does not fit; start a new run.")
        with torch.no_grad():
            for name, value in saved.items():
                own[name].copy_(value)

    def restore_optimizer(self, optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> None:
        """Put the saved moments back. Raises CheckpointError if they belong to other parameters."""
        states: dict[str, dict[str, Tensor]] = {}
        for key, value in load_file(self.path / OPTIMIZER).items():
            entry, _, name = key.partition(":")
            is_plain = value.ndim == 0 and value.dtype == torch.int64  # a count of steps that is no tensor
            states.setdefault(name, {})[entry] = value.item() if is_plain else value
        if not states and self.position.stage_step == 0:
            return  # it has no moments before its first step
        if states.keys() != parameters.keys():
            raise CheckpointError(f"resume: {self.path / OPTIMIZER} belongs to other parameters; start a new run.")
        order = {index: states[name] for index, name in enumerate(parameters)}
        optimizer.load_state_dict({"state": order, "param_groups": optimizer.state_dict()["param_groups"]})

    def restore_random(self) -> None:
        """Put the global generators back; generators of devices that are not here are left out."""
        states = load_file(self.path / RANDOM)
        torch.set_rng_state(states["cpu"])
        if "cuda" in states and torch.cuda.is_available():
            torch.cuda.set_rng_state(states["cuda"])


def save(run: Path, position: Position, weights: Mapping[str, Tensor], optimizer: torch.optim.Optimizer,
         learner: Learner, keep: int) -> Path:
    """Write `run/checkpoint-<step>` and delete all but the newest `keep`, and those that one of these calls the best.

    Raises DiskFull, before anything is written where that can be seen, and TrainingError for weights that are no
    numbers. Whatever is raised, earlier checkpoints are untouched.
    """
    target = folder_of(run, position.step)
    files = {WEIGHTS: _on_cpu(weights), OPTIMIZER: _on_cpu(_moments(optimizer, learner.parameters)),
             LEARNER: _on_cpu(learner.state()), RANDOM: _random()}
    if bad := [name for name, value in files[WEIGHTS].items() if not torch.isfinite(value).all()]:
        raise TrainingError(f"checkpoint: '{bad[0]}' holds values that are not numbers; lower the learning rate.")
    _require_space(run, sum(value.nbytes for tensors in files.values() for value in tensors.values()))
    remove_leftovers(run)
    staged = run / f".{target.name}.partial"
    try:
        staged.mkdir()
        _write(staged, position, files)
        replace_folder(staged, target)  # a resumed run may come by a step again
        sync(run)
    except (OSError, SafetensorError) as error:
        raise _write_error(target, error) from error
    finally:  # also when it is called off
        shutil.rmtree(staged, ignore_errors=True)
    _thin_out(run, keep)
    return target


def folder_of(run: Path, step: int) -> Path:
    """Where the checkpoint of a step is, or would be."""
    return run / f"checkpoint-{step}"


def load(path: Path) -> Checkpoint:
    """A checkpoint, every byte of it checked. Raises CheckpointError naming the file that is missing or changed."""
    manifest = _manifest(path)
    for name, facts in manifest.files.items():
        if not _is_unchanged(path / name, facts):
            raise CheckpointError(f"resume: {path / name} is missing or damaged; delete the folder {path.name}.")
    return Checkpoint(path, manifest.position)


def newest(run: Path, warn: Callable[[str], None] = lambda message: None) -> Checkpoint | None:
    """The newest checkpoint that is whole; `warn` hears of damaged ones that were passed over. None if there is none.

    A best one that is lost is no longer called so.
    """
    for path in sorted(_all(run), key=_step, reverse=True):
        try:
            return _without_lost_best(load(path), warn)
        except CheckpointError as error:
            warn(str(error))
    return None


def steps(run: Path) -> list[int]:
    """The steps at which a run has checkpoints, oldest first; their files are not looked at."""
    return sorted(map(_step, _all(run)))


def remove_all(run: Path) -> None:
    """Delete every checkpoint, because what they were for is done."""
    for path in _all(run):
        _remove(path)
    remove_leftovers(run)


def remove_leftovers(run: Path) -> None:
    """Delete what a process left that was killed while it wrote or deleted a checkpoint."""
    for path in run.glob(".checkpoint-*.partial"):
        shutil.rmtree(path, ignore_errors=True)


def _thin_out(run: Path, keep: int) -> None:
    """Delete old checkpoints; the best one of each that is kept stays, so that whichever is resumed can end with it."""
    kept = sorted(_all(run), key=_step)[-keep:]
    best = {found.step for path in kept if (found := _best_of(path))}
    for old in _all(run):
        if old not in kept and _step(old) not in best:
            _remove(old)


def _best_of(path: Path) -> Best | None:
    """What a checkpoint calls the best; None also where it is damaged."""
    try:
        return _manifest(path).position.best
    except CheckpointError:
        return None


def _without_lost_best(found: Checkpoint, warn: Callable[[str], None]) -> Checkpoint:
    best = found.position.best
    if best is None or best.step == found.position.step:
        return found
    try:
        load(folder_of(found.path.parent, best.step))
    except CheckpointError as error:
        warn(f"{error} The run cannot end with the weights of step {best.step}, its best so far.")
        return replace(found, position=found.position.model_copy(update={"best": None}))
    return found


def _manifest(path: Path) -> Manifest:
    """Raises CheckpointError."""
    try:
        return parse(Manifest, json.loads((path / MANIFEST).read_text(encoding="utf-8")))
    except _DAMAGED:
        raise CheckpointError(f"resume: {path / MANIFEST} is missing or damaged; delete the folder {path.name}.") from None


def _all(run: Path) -> list[Path]:
    return [path for path in run.glob("checkpoint-*") if _NAME.fullmatch(path.name)]


def _step(path: Path) -> int:
    return int(_NAME.fullmatch(path.name)[1])


def _remove(path: Path) -> None:
    """Out of the list first, then away: half a checkpoint is never listed."""
    hidden = path.with_name(f".{path.name}-old.partial")
    os.rename(path, hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def _on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}


def _moments(optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """The optimizer's state as one flat mapping, 'exp_avg:<parameter>' and the like."""
    return {f"{entry}:{name}": torch.as_tensor(value) for name, parameter in parameters.items()
            for entry, value in optimizer.state[parameter].items()}


def _random() -> dict[str, Tensor]:
    cuda = {"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {}
    return {"cpu": torch.get_rng_state(), **cuda}


def _require_space(run: Path, needed: int) -> None:
    free = shutil.disk_usage(run).free
    if free < needed + _MARGIN:
        raise DiskFull(f"checkpoint: {run} needs {(needed + _MARGIN) / 1e6:,.0f} MB, but {free / 1e6:,.0f} MB are free; "
                       f"free some space, then go on with 'python -m spf resume {run.name}'.")


def _write(staged: Path, position: Position, files: Mapping[str, Mapping[str, Tensor]]) -> None:
    for name, tensors in files.items():
        save_file(dict(tensors), staged / name)
        sync(staged / name)
    facts = {name: FileFacts(size=(staged / name).stat().st_size, sha256=_sha256(staged / name)) for name in files}
    manifest = Manifest(files=facts, position=position)
    (staged / MANIFEST).write_text(manifest.model_dump_json(indent=2), encoding="utf-8")
    sync(staged / MANIFEST)
    sync(staged)


def _write_error(target: Path, error: BaseException) -> TrainingError:
    if is_disk_full(error):
        return DiskFull(f"checkpoint: the disk of {target.parent} is full; free some space, "
                        f"then go on with 'python -m spf resume {target.parent.name}'.")
    return CheckpointError(f"checkpoint: {target} cannot be written ({error}); look after the disk, then resume the run.")


def _is_unchanged(path: Path, facts: FileFacts) -> bool:
    try:
        return path.stat().st_size == facts.size and _sha256(path) == facts.sha256
    except OSError:
        return False


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
