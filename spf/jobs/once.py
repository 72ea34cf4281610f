"""Training that is done once, however many processes ask for it at the same time: for the shards of an evaluation."""

from __future__ import annotations

import sys
import time

import torch

from spf.backbones import checkpoints
from spf.config import TrainConfig, model_preset
from spf.errors import AlreadyUnderWay, Cancelled, CheckpointError, InvalidInput, ResumeRefused
from spf.jobs import foreground, store, worker
from spf.library import Customization
from spf.training.run_folder import FINAL_STATES, RunFolder

POLL = 0.5  # seconds


def train_once(config: TrainConfig, device: torch.device, lease: str) -> tuple[RunFolder, Customization]:
    """The run with exactly these settings, by whoever is first: one that is done is taken, one under way is waited for.

    One that ended early goes on. This process trains when `lease`, its part of the device, is free. Raises what training
    raises, and Cancelled if the run is called off while it waits.
    """
    while True:
        found = equal_run(config)
        state = store.status(found).state if found else ""
        if found and state == "completed" and worker.is_written(config.name, found.id):
            return found, checkpoints.customization(config.name, model_preset(config.model))
        if not found or state in FINAL_STATES:
            try:
                ended_early = found if state != "completed" else None
                return foreground.train_here(lambda early=ended_early: _in_turn(config, early, lease), device)
            except AlreadyUnderWay:
                pass  # somebody was quicker
        time.sleep(POLL)


def equal_run(config: TrainConfig) -> RunFolder | None:
    """The newest run with these very settings."""
    return next((folder for folder in store.runs() if config.name in folder.id and _settings(folder) == config), None)


def _settings(folder: RunFolder) -> TrainConfig | None:
    """None where they cannot be read."""
    try:
        return folder.config()
    except InvalidInput:
        return None


def _in_turn(config: TrainConfig, ended_early: RunFolder | None, lease: str) -> RunFolder:
    folder = _queued(config, ended_early, lease)
    if (called_off := worker.wait_for_turn(folder)) is not None:
        worker.end(folder, called_off, None)
        raise Cancelled(called_off.message)
    return folder


def _queued(config: TrainConfig, ended_early: RunFolder | None, lease: str) -> RunFolder:
    if ended_early is not None:
        try:
            return store.enqueue_again(ended_early.id, lease)
        except (ResumeRefused, CheckpointError) as error:
            print(f"{error} It is trained anew.", file=sys.stderr)
    return store.enqueue(config, lease)
