"""The process that looks after one job: waits for the device, lets a child train, and records how it ended.

It is detached from page and server, and light: torch lives in the child, and the device's memory is free when that is
gone. It signals nobody but its own child.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence

import psutil

from spf import library
from spf.config import REPOSITORY, home
from spf.errors import InvalidInput, SpfError
from spf.jobs import queue
from spf.jobs.queue import Holder
from spf.training.run_folder import FINAL_STATES, RunFolder, RunStatus

POLL = 0.1  # seconds
GRACE = 0.6  # seconds that a child has to stop by itself once it is asked to; it looks 10 times a second, once it is loaded
WORK = 0.01  # of the time that a child must compute to count as working
SILENCE = 600.0  # seconds without a word and without work after which a child is thought to hang


def train_command(folder: RunFolder) -> list[str]:
    return [sys.executable, "-m", "spf", "train", "--run", str(folder.path)]


def work(folder: RunFolder, command: Sequence[str] | None = None, silence: float = SILENCE) -> RunStatus:
    """See a queued run through to one final state, and return it. `command` is what trains.

    Raises InvalidInput for one that is not in the queue.
    """
    if queue.job(folder.id) is None:
        raise InvalidInput("run", f"'{folder.id}' is not in the queue; 'python -m spf resume {folder.id}' puts it there")
    queue.attend(folder.id, Holder.this_process())
    if (early := wait_for_turn(folder)) is not None:
        return end(folder, early, None)
    try:
        child = subprocess.Popen(
            list(command or train_command(folder)), stdin=subprocess.DEVNULL, cwd=REPOSITORY,
            env={**os.environ, "SPF_HOME": str(home()), "PYTHONUNBUFFERED": "1"})
    except OSError as error:
        return end(folder, RunStatus(state="failed", message=f"The training process could not be started: {error}"), None)
    reason = _watch(child, folder, silence)
    return end(folder, verdict(folder, child.returncode, reason), child.returncode)


def wait_for_turn(folder: RunFolder) -> RunStatus | None:
    """None once the device is this process's; how the run ended, if it was called off before."""
    while not queue.acquire(folder.id, Holder.this_process()):
        asked = folder.requests()
        if "cancel" in asked:
            return folder.status().model_copy(update={"state": "cancelled", "message": "Cancelled before it began."})
        if "pause" in asked:
            return folder.status().model_copy(update={"state": "paused", "message": "Paused before it began."})
        time.sleep(POLL)
    return None


def _watch(child: subprocess.Popen, folder: RunFolder, silence: float) -> str:
    """Wait for the child. Returns '' if it ended by itself, else why it was ended: 'cancel' or 'silence'."""
    asked, worked, busy = None, 0.0, time.monotonic()
    while True:
        try:
            child.wait(POLL)
            return ""
        except subprocess.TimeoutExpired:
            now = time.monotonic()
        if folder.cancel_requested():
            asked = asked or now
            if now - asked > GRACE:
                return _kill(child, "cancel")
        if (spent := _processor_seconds(child)) - worked >= WORK * silence:
            worked, busy = spent, now
        if now - busy > silence and time.time() - _last_word(folder) > silence:
            return _kill(child, "silence")


def _kill(child: subprocess.Popen, reason: str) -> str:
    child.kill()  # whatever it writes appears whole or not at all
    child.wait()
    return reason


def _processor_seconds(child: subprocess.Popen) -> float:
    """What the child has computed so far: a step of a large model on a CPU may take minutes, but is no standstill."""
    try:
        times = psutil.Process(child.pid).cpu_times()
    except psutil.Error:
        return 0.0
    return times.user + times.system


def _last_word(folder: RunFolder) -> float:
    """When the training process last wrote anything, seconds since the epoch."""
    files = (folder.path / name for name in ("status.json", "metrics.jsonl", "log.txt"))
    return max((file.stat().st_mtime for file in files if file.exists()), default=time.time())


def verdict(folder: RunFolder, exit_code: int, reason: str) -> RunStatus:
    """How a training process ended: as it said itself, or why it could not say so."""
    told = folder.status()
    if told.state == "completed" and not is_written(told.message, folder.id):
        return _failed(told, "The training process said that it was done, but its customization is not there.")
    if told.state in FINAL_STATES:
        return told
    if reason == "cancel":
        return told.model_copy(update={"state": "cancelled", "eta": None, "message": "Training was cancelled."})
    if reason == "silence":
        return _failed(told, "The training process gave no sign of life for a long time and was ended; resume the run.")
    if exit_code < 0:
        return told.model_copy(update={"state": "interrupted", "eta": None, "message": (
            f"The training process was ended by signal {-exit_code}, often for want of memory; resume the run.")})
    if exit_code == 0:
        return _failed(told, "The training process ended without a result; see the log.")
    return _failed(told, f"The training process ended with status {exit_code}; see the log.")


def is_written(name: str, run_id: str) -> bool:
    """Whether the customization that a run says it wrote is there and can be listed. The run itself has read it back."""
    found = library.customizations().get(name)
    if found is None or found.card.summary.get("run") != run_id:
        return False
    try:
        return found.version > 0
    except SpfError:
        return False


def _failed(told: RunStatus, message: str) -> RunStatus:
    return told.model_copy(update={"state": "failed", "eta": None, "message": message})


def end(folder: RunFolder, status: RunStatus, exit_code: int | None) -> RunStatus:
    """Tell everybody how a run ended."""
    try:
        folder.write_status(status)
    except OSError as error:  # a full disk; the next look at the run finds it interrupted
        print(f"the status of {folder.id} cannot be written: {error}", file=sys.stderr)
    queue.finish(folder.id, status.state, status.message, exit_code, folder.log_tail())
    return status
