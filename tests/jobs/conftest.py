"""Jobs whose training process is a stand-in."""

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for `stand_in`, under every import mode of pytest

from stand_in import stand_in_workers

from spf import config
from spf.jobs import store


@pytest.fixture
def settings(tiny, picture_folder) -> config.TrainConfig:
    return config.train_config("tiny", {"data": str(picture_folder), "name": "hat"})


@pytest.fixture
def workers():
    """Real workers, each with a stand-in that trains as `behaviour` says. Holds (command, options) of each start."""
    with stand_in_workers() as started:
        yield started
        for run in store.runs():
            run.request_cancel()  # the stand-ins listen
        for process in started.processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
