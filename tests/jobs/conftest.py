"""Jobs whose training process is a stand-in."""

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for `stand_in`, under every import mode of pytest

from stand_in import TRAINER, WORKER

from spf import config
from spf.jobs import store


@pytest.fixture
def settings(tiny, picture_folder) -> config.TrainConfig:
    return config.train_config("tiny", {"data": str(picture_folder), "name": "hat"})


@pytest.fixture
def workers(monkeypatch):
    """Real workers, each with a stand-in that trains as `behaviour` says. Holds (command, options) of each start."""
    class Workers(list):
        behaviour = "obeys"
        processes: list[subprocess.Popen] = []

    started, launch = Workers(), subprocess.Popen
    started.processes = []

    def popen(command, **options):
        started.append((command, options))
        options["env"] = {**options["env"], "PYTHONPATH": str(config.REPOSITORY)}
        started.processes.append(launch(
            [sys.executable, "-c", WORKER, TRAINER, started.behaviour, command[-1]], **options))
        return started.processes[-1]

    monkeypatch.setattr(store.subprocess, "Popen", popen)
    yield started
    for run in store.runs():
        run.request_cancel()  # the stand-ins listen
    for process in started.processes:
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
