"""A stand-in for the training process: it keeps the contract and reads and writes its run folder."""

import subprocess
import sys
import time
from contextlib import contextmanager
from unittest import mock

from spf import config
from spf.jobs import store

# What `python -m spf train --run FOLDER` does, without a model: train until asked to stop, or as its first word says.
TRAINER = """
import json, os, sys, time
behaviour, folder = sys.argv[1], sys.argv[-1]
print("the trainer says hello", flush=True)
path = os.path.join(folder, "status.json")
status = json.load(open(path))
stat = open("/proc/self/stat").read().rsplit(")", 1)[1].split()
boot = int(open("/proc/sys/kernel/random/boot_id").read().replace("-", ""), 16) % 10**5 * 10**8
status |= {"pid": os.getpid(), "pid_created": boot + int(stat[19]) / os.sysconf("SC_CLK_TCK"), "step": 3, "total_steps": 9,
           "state": "running", "message": ""}
def write(**changes):
    json.dump(status | changes, open(path + ".new", "w")); os.replace(path + ".new", path)
write()
if behaviour == "silent exit 0": sys.exit(0)
if behaviour == "exit 1": print("something broke"); sys.exit(1)
if behaviour == "lies": write(state="completed", message="hat"); sys.exit(0)
if behaviour == "fails": write(state="failed", message="loss is not a finite number"); sys.exit(1)
if behaviour == "signal": os.kill(os.getpid(), 9)
if behaviour == "deaf": time.sleep(600)
if behaviour == "busy":
    while time.process_time() < 3.5: pass
    sys.exit(0)
asked = lambda what: os.path.exists(os.path.join(folder, what))
while not (asked("cancel") or asked("pause")):
    time.sleep(0.02)
write(state="cancelled" if asked("cancel") else "paused", message="as asked")
if behaviour == "leaves late": time.sleep(1.5)
"""

WORKER = """
import sys
from pathlib import Path
from spf.jobs import worker
from spf.training.run_folder import RunFolder
worker.POLL, worker.GRACE = 0.05, 0.5
worker.work(RunFolder(Path(sys.argv[-1])), [sys.executable, "-S", "-c", sys.argv[1], sys.argv[2], sys.argv[-1]])
"""


class Workers(list):
    """(command, options) of each worker that was started, and the processes."""

    behaviour = "obeys"

    def __init__(self):
        super().__init__()
        self.processes: list[subprocess.Popen] = []


@contextmanager
def stand_in_workers():
    """Workers started within this look after stand-ins."""
    started, launch = Workers(), subprocess.Popen

    def popen(command, **options):
        started.append((command, options))
        options["env"] = {**options["env"], "PYTHONPATH": str(config.REPOSITORY)}
        started.processes.append(launch(
            [sys.executable, "-c", WORKER, TRAINER, started.behaviour, command[-1]], **options))
        return started.processes[-1]

    with mock.patch.object(store.subprocess, "Popen", popen):
        yield started


def until(condition, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.05)


def state(folder) -> str:
    return store.status(folder).state
