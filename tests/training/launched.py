"""Run by torchrun: one process of a training run that exists already, with a test's presets; killed after some step."""

import os
import sys
from pathlib import Path

import torch

import spf  # noqa: F401
from spf import config
from spf.training import preview
from spf.training.run import Run
from spf.training.run_folder import RunFolder


class Doomed(RunFolder):
    def write_status(self, status):
        super().write_status(status)
        if status.step == int(sys.argv[3]):
            os._exit(9)


if __name__ == "__main__":
    torch.set_num_threads(1)
    config.CONFIGS, preview.PREVIEW_STEPS = Path(sys.argv[1]), 1
    folder = Doomed(Path(sys.argv[2]))
    Run(folder.config(), folder, torch.device("cpu")).execute()
