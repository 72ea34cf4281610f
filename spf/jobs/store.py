"""Starts, lists and cancels training runs. A run is a child process in its own session: it outlives page and server."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil

from spf.backbones.checkpoints import missing_file
from spf.config import REPOSITORY, TrainConfig, home, model_preset
from spf.data.records import read_folder
from spf.errors import ModelNotFound, TrainingError
from spf.training.run_folder import FINAL_STATES, RunFolder, RunStatus


def runs_root() -> Path:
    return home() / "runs"


def runs() -> list[RunFolder]:
    """All runs whose status can be read, newest first."""
    folders = [RunFolder(path.parent) for path in sorted(runs_root().glob("*/status.json"), reverse=True)]
    return [folder for folder in folders if _readable(folder)]


def run(run_id: str) -> RunFolder:
    """The run called `run_id`. Raises TrainingError for an unknown one."""
    known = {folder.id: folder for folder in runs()}
    if run_id not in known:
        raise TrainingError(f"run: '{run_id}' does not exist; choose one from the list of runs.")
    return known[run_id]


def status(folder: RunFolder) -> RunStatus:
    """The run's status; a run whose process is gone without a word becomes 'interrupted'."""
    current = folder.status()
    if current.state in FINAL_STATES or _alive(current):
        return current
    current = folder.status()  # it may have ended between the two looks
    if current.state in FINAL_STATES:
        return current
    ended = current.model_copy(update={
        "state": "interrupted", "eta": None, "message": "The training process ended without finishing; see the log."})
    folder.write_status(ended)
    return ended


def active(besides: str = "") -> RunFolder | None:
    """The run that occupies the device, if any; the one called `besides` does not count."""
    return next((folder for folder in runs()
                 if folder.id != besides and status(folder).state in ("queued", "running")), None)


def prepare(config: TrainConfig) -> RunFolder:
    """The folder of a run that is about to start, when its pictures and model are there and nothing else is running.

    Raises DataError, ModelNotFound, or TrainingError while another run occupies the device; then nothing is written.
    """
    _refuse_if_busy()
    if (missing := missing_file(model_preset(config.model))) is not None:
        raise ModelNotFound(f"model: {missing} does not exist; restore it or choose another model.")
    read_folder(Path(config.data))
    folder = RunFolder.create(runs_root(), config)
    try:
        _refuse_if_busy(besides=folder.id)  # two starts at one moment: rather none than both
    except TrainingError:
        shutil.rmtree(folder.path)
        raise
    return folder


def start(config: TrainConfig) -> RunFolder:
    """Start a training run in the background. Raises TrainingError while another one occupies the device."""
    folder = prepare(config)
    try:
        process = _launch(folder)
    except OSError as error:
        folder.write_status(RunStatus(state="failed", message=f"The training process could not be started: {error}"))
        raise TrainingError(f"The training process could not be started ({error}); free some memory and try again.") from None
    created = psutil.Process(process.pid).create_time()
    if folder.status().state == "queued":  # the child has not taken over yet
        folder.write_status(RunStatus(state="queued", pid=process.pid, pid_created=created))
    return folder


def cancel(run_id: str) -> RunFolder:
    """Ask a run to stop after its current step."""
    folder = run(run_id)
    folder.request_cancel()
    return folder


def _refuse_if_busy(besides: str = "") -> None:
    if (busy := active(besides)) is not None:
        state = status(busy)
        raise TrainingError(
            f"A training run is already under way ({busy.id}, step {state.step} of {state.total_steps}); "
            "wait until it is done, or cancel it.")


def _launch(folder: RunFolder) -> subprocess.Popen:
    """The detached process that carries out a run; what it prints goes to the run's log."""
    with open(folder.path / "log.txt", "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "spf", "train", "--run", str(folder.path)], stdin=subprocess.DEVNULL, stdout=log,
            stderr=subprocess.STDOUT, cwd=REPOSITORY, start_new_session=True,
            env={**os.environ, "SPF_HOME": str(home()), "PYTHONUNBUFFERED": "1"})


def _readable(folder: RunFolder) -> bool:
    try:
        folder.status()
    except TrainingError:
        return False
    return True


def _alive(current: RunStatus) -> bool:
    if current.pid is None:
        return False
    try:
        process = psutil.Process(current.pid)
        return abs(process.create_time() - (current.pid_created or 0)) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
