"""Training in this process: on the command line, under torchrun or accelerate, or as the child of a worker."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from spf.baselines.registry import training_stages
from spf.errors import SpfError
from spf.jobs import queue, store
from spf.jobs.queue import Holder
from spf.library import Customization
from spf.training.devices import process_count, process_rank, refuse_lonely_process
from spf.training.run import Run
from spf.training.run_folder import RunFolder


def train_here(obtain: Callable[[], RunFolder], device: torch.device) -> tuple[RunFolder, Customization]:
    """Carry out the run that `obtain` prepares; of several processes the first prepares it, and all train.

    Raises what `obtain` and Run raise. Whatever happens, the queue learns how it ended, and the device is free.
    """
    refuse_lonely_process(os.environ)
    folder = _shared(obtain, device)
    exit_code = 1
    try:
        with _paused_by_termination(folder):
            written = Run(folder.config(), folder, device, training_stages).execute()
        exit_code = 0
    finally:
        if process_rank() == 0:
            store.finished(folder, exit_code)
    return folder, written


def train_for_worker(folder: RunFolder, device: torch.device) -> Customization:
    """Carry out a run that a worker looks after; it records the end. Raises TrainingError if the device is another's."""
    config = folder.config()
    if queue.job(folder.id) is not None:
        queue.claim(folder.id, Holder.this_process())
    with _paused_by_termination(folder):
        return Run(config, folder, device, training_stages).execute()


@contextmanager
def _paused_by_termination(folder: RunFolder) -> Iterator[None]:
    """Whoever shuts the computer down gets a checkpoint first. Among several processes torchrun decides."""
    if process_count() > 1 or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: folder.request("pause"))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _shared(obtain: Callable[[], RunFolder], device: torch.device) -> RunFolder:
    """The same folder in every process. The others leave without a word where the first one raises."""
    if process_count() == 1:
        return obtain()
    PartialState(cpu=device.type == "cpu")
    folder, refusal = None, None
    if process_rank() == 0:
        try:
            folder = obtain()
        except SpfError as error:
            refusal = error
    (found,) = broadcast_object_list([folder])
    if refusal is not None:
        raise refusal
    if found is None:
        raise SystemExit(2)
    return found
