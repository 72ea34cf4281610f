"""Starts, lists, resumes and stops training runs. Each is looked after by a detached process, so it outlives page and server."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from spf import library
from spf.backbones.source import require_model
from spf.config import REPOSITORY, TrainConfig, home, mix_weights, model_preset, parse, with_overrides
from spf.data.records import read_training_set
from spf.errors import AlreadyUnderWay, InvalidInput, TrainingError
from spf.jobs import queue
from spf.jobs.queue import Holder
from spf.training.reports import require_reporter
from spf.training.run_folder import FINAL_STATES, REQUESTS, RunFolder, RunStatus

LEAVING = 5.0  # seconds for which a run that has told its end is waited for; it takes a fraction of one


def runs_root() -> Path:
    return home() / "runs"


def runs() -> list[RunFolder]:
    """All runs whose status can be read, newest first."""
    folders = [RunFolder(path.parent) for path in sorted(runs_root().glob("*/status.json"), reverse=True)]
    return [folder for folder in folders if _readable(folder)]


def run(run_id: str) -> RunFolder:
    """The run called `run_id`. Raises InvalidInput for an unknown one, TrainingError for one whose status is damaged."""
    known = {path.name: RunFolder(path) for path in runs_root().glob("*")}
    if run_id not in known:
        raise InvalidInput("run", f"'{run_id}' does not exist; choose one of those that 'python -m spf jobs' lists")
    known[run_id].status()
    return known[run_id]


def status(folder: RunFolder) -> RunStatus:
    """The run's status; one that no process works on any more becomes 'interrupted', and the queue learns how it ended."""
    job = queue.job(folder.id)
    current = folder.status()
    if current.state not in FINAL_STATES and not _is_attended(job, current):
        current = folder.status()  # it may have ended between the two looks
        if current.state not in FINAL_STATES:
            current = _interrupted(folder, current)
    if job and job.active and current.state in FINAL_STATES and _is_left_alone(job, current):
        queue.finish(folder.id, current.state, current.message, job.exit_code, folder.log_tail())
    return current


def active(besides: str = "") -> RunFolder | None:
    """The run that occupies the device, else the next one in the queue; the one called `besides` does not count."""
    found = {job.id: _settled(job) for job in reversed(queue.jobs()) if job.active and job.id != besides}
    for state in ("running", "queued"):
        for run_id, current in found.items():
            if current == state:
                return RunFolder(runs_root() / run_id)
    return None


def prepare(config: TrainConfig) -> RunFolder:
    """The folder of a run that this process is about to carry out; the device is then ours.

    Raises what `start` raises, and TrainingError while another run occupies the device; then nothing is written.
    """
    _check(config)
    _let_leave()
    if (busy := active()) is not None:
        raise _busy(busy)
    folder = _add(config)
    if not queue.acquire(folder.id, Holder.this_process()):  # somebody came first
        _forget(folder)
        raise _busy(active())
    return folder


def enqueue(config: TrainConfig, device: str) -> RunFolder:
    """Queue a run that this process carries out when `device` is its own; `worker.wait_for_turn` waits for that.

    Raises what `start` raises.
    """
    _check(config)
    _let_leave()
    return _add(config, device)


def start(config: TrainConfig) -> RunFolder:
    """Queue a training run; a process of its own waits for the device and trains.

    Raises DataError, ModelNotFound, or TrainingError while a run that teaches the same customization is not done.
    """
    _check(config)
    _let_leave()
    folder = _add(config)
    _launch_or_fail(folder)
    return folder


def resume(run_id: str, overrides: dict[str, Any] | None = None, launch: bool = True) -> RunFolder:
    """Queue a run that ended early once more; it goes on from its newest checkpoint.

    `overrides` are dotted settings that may change on the way, such as a learning rate. With `launch` False this process
    is to carry the run out, and the device must be free. Raises ResumeRefused naming what is no longer as it was.
    """
    state = status(run(run_id)).state
    folder = enqueue_again(run_id, queue.DEVICE, overrides)
    if launch:
        _launch_or_fail(folder)
    elif not queue.acquire(folder.id, Holder.this_process()):
        queue.finish(folder.id, state, "", None, "")
        folder.write_status(folder.status().model_copy(update={"state": state}))
        raise _busy(active(besides=folder.id) or folder)
    return folder


def enqueue_again(run_id: str, device: str, overrides: dict[str, Any] | None = None) -> RunFolder:
    """What `enqueue` does, for a run that ended early. Raises what `resume` raises."""
    folder = run(run_id)
    _let_leave()
    state = status(folder).state
    if state not in FINAL_STATES or state == "completed":
        raise TrainingError(f"resume: the run {run_id} is {state}; only a run that ended early can go on.")
    config = _changed(folder.config(), overrides or {})
    _check(config)
    _check_resumable(config, folder)
    _queue_again(folder, config, device)
    return folder


def ask(run_id: str, what: str) -> RunFolder:
    """Ask a run to cancel, pause, save or sample before its next step.

    Raises InvalidInput for an unknown run, and TrainingError if nobody would hear it.
    """
    if what not in REQUESTS:
        raise InvalidInput("request", f"'{what}' is not one of {', '.join(REQUESTS)}")
    folder = run(run_id)
    state = status(folder).state
    if state in FINAL_STATES:
        raise TrainingError(f"{what}: the run {run_id} is {state}; nothing is under way.")
    folder.request(what)
    return folder


def cancel(run_id: str) -> RunFolder:
    """Ask a run to stop; it does within two seconds, whatever it is at. A run that has ended already is left as it is."""
    folder = run(run_id)
    if status(folder).state not in FINAL_STATES:
        folder.request_cancel()
    return folder


def finished(folder: RunFolder, exit_code: int) -> None:
    """Tell the queue how a run ended that this process carried out itself."""
    ended = folder.status()
    queue.finish(folder.id, ended.state, ended.message, exit_code, folder.log_tail())


def _settled(job: queue.Job) -> str:
    """The state of an active job, once it is known whether anybody still works on it."""
    try:
        return status(RunFolder(runs_root() / job.id)).state
    except TrainingError:  # its folder was deleted or damaged
        if not job.is_attended():
            queue.finish(job.id, "interrupted", "The folder of this run is gone or damaged.", job.exit_code, "")
        return "interrupted"


def _let_leave() -> None:
    """Who died without a word must not stand in the way of the next run; nor who has told its end and is about to leave the
    queue, since whoever starts the next run may have waited for just that."""
    end = time.monotonic() + LEAVING
    while any(_settled(job) in FINAL_STATES and queue.job(job.id).active for job in queue.jobs() if job.active):
        if time.monotonic() > end:
            return
        time.sleep(0.05)


def _check(config: TrainConfig) -> None:
    """Everything that can be refused without loading a model."""
    require_model(model_preset(config.model))
    require_reporter(config.report_to)
    for name in mix_weights(config.initial_customization) if config.initial_customization else ():
        library.named(name)
    from spf.backbones.window import caption_window  # only here: these need tokenizers and torch
    from spf.training.identity import require_held_out

    records = read_training_set(config, caption_window(model_preset(config.model)))
    require_held_out(config, len(records))


def _add(config: TrainConfig, device: str = queue.DEVICE) -> RunFolder:
    try:
        folder = RunFolder.create(runs_root(), config)
    except OSError as error:
        raise TrainingError(f"run: {runs_root()} cannot be written ({error.strerror}); free some space, "
                            "or let SPF_HOME name a folder that can be written.") from None
    try:
        queue.add(folder.id, config.name, Holder.this_process(), device)
    except TrainingError:
        shutil.rmtree(folder.path)
        raise
    return folder


def _forget(folder: RunFolder) -> None:
    queue.remove(folder.id)
    shutil.rmtree(folder.path)


def _changed(config: TrainConfig, overrides: dict[str, Any]) -> TrainConfig:
    return parse(TrainConfig, with_overrides(config.model_dump(mode="json"), overrides))


def _check_resumable(config: TrainConfig, folder: RunFolder) -> None:
    from spf.training.run import resumable  # only here: nothing else in this module needs the models

    resumable(config, folder, read_training_set(config))


def _queue_again(folder: RunFolder, config: TrainConfig, device: str) -> None:
    me = Holder.this_process()
    if queue.job(folder.id) is None:
        queue.add(folder.id, config.name, me, device)
    elif not queue.requeue(folder.id, me, device):
        raise AlreadyUnderWay(f"resume: the run {folder.id} is already under way; wait until it is done, or cancel it.")
    folder.clear_requests()
    folder.write_config(config)
    before = folder.status()
    folder.write_status(RunStatus.of_this_process("queued").model_copy(update={
        "started": before.started, "step": before.step, "total_steps": before.total_steps, "stage": before.stage}))


def _launch_or_fail(folder: RunFolder) -> None:
    try:
        process = _launch(folder)
    except OSError as error:
        failed = RunStatus(state="failed", message=f"The training process could not be started: {error}")
        folder.write_status(failed)
        queue.finish(folder.id, failed.state, failed.message, None, "")
        raise TrainingError(f"The training process could not be started ({error}); free some memory and try again.") from None
    worker = Holder.of(process.pid)
    queue.attend(folder.id, worker)  # it says so itself, once it has started; this is for one that does not get so far


def _launch(folder: RunFolder) -> subprocess.Popen:
    """The detached process that looks after a run; what it and its child print goes to the run's log."""
    with open(folder.path / "log.txt", "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "spf", "work", str(folder.path)], stdin=subprocess.DEVNULL, stdout=log,
            stderr=subprocess.STDOUT, cwd=REPOSITORY, start_new_session=True,
            env={**os.environ, "SPF_HOME": str(home()), "PYTHONUNBUFFERED": "1"})


def _busy(folder: RunFolder | None) -> TrainingError:
    if folder is None:
        return TrainingError("A training run was under way a moment ago; try again.")
    state = status(folder)
    return TrainingError(
        f"A training run is already under way ({folder.id}, step {state.step} of {state.total_steps}); "
        "wait until it is done, or cancel it.")


def _readable(folder: RunFolder) -> bool:
    try:
        folder.status()
    except TrainingError:
        return False
    return True


def _is_attended(job: queue.Job | None, current: RunStatus) -> bool:
    """Whether a process works on the run. A training process goes on when the one that looked after it is gone."""
    if job is not None and job.is_attended():
        return True
    trains = job is None or current.state == "running"  # before that, the status names who prepared the run
    return trains and current.pid is not None and Holder(current.pid, current.pid_created or 0).is_alive()


def _is_left_alone(job: queue.Job, current: RunStatus) -> bool:
    """Whether nobody is about to record the end of a job: its process is gone, or was the training process itself."""
    return not job.is_attended() or (job.worker is not None and job.worker.pid == current.pid)


def _interrupted(folder: RunFolder, current: RunStatus) -> RunStatus:
    ended = current.model_copy(update={
        "state": "interrupted", "eta": None,
        "message": "The training process ended without finishing; see the log, or resume the run."})
    try:
        folder.write_status(ended)
    except OSError:
        pass  # a full or read-only disk; the next look comes to the same result
    return ended
