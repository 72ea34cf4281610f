"""Which part of an evaluation this process does: one of several shards, given by hand or by a launcher."""

from __future__ import annotations

import os
import re
from pathlib import Path

import torch
from filelock import FileLock

from spf.errors import InvalidInput


def shard_of(given: str | None) -> tuple[int, int]:
    """(index, count) from 'i/n', i counted from 1, or else from what accelerate launch and torchrun tell a process.

    Raises InvalidInput.
    """
    if given is None:
        return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    match = re.fullmatch(r"(\d{1,4})/(\d{1,4})", given)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise InvalidInput("--shard", f"'{given}' is not of the form i/n with i from 1 to n, for example 1/2")
    return int(match[1]) - 1, int(match[2])


def device_name(given: str | None) -> str | None:
    """The device asked for; under a launcher on a machine with several GPUs, each process takes its own."""
    local = os.environ.get("LOCAL_RANK")
    if given is None and local is not None and torch.cuda.device_count() > int(local):
        return f"cuda:{local}"
    return given


def lease_of(device: torch.device, shard: tuple[int, int]) -> str:
    """What a shard (index, count) must hold while it trains: the whole of a GPU, or its own part of the processor."""
    index, count = shard
    return f"cpu {index + 1}/{count}" if device.type == "cpu" else f"{device.type}:{device.index or 0}"


def share_processor(count: int) -> None:
    """Let this process, and what it trains, use its part of the processor's threads, unless OMP_NUM_THREADS says how many."""
    if count > 1 and "OMP_NUM_THREADS" not in os.environ:
        threads = max(1, torch.get_num_threads() // count)
        os.environ["OMP_NUM_THREADS"] = str(threads)  # for the trainings
        torch.set_num_threads(threads)


def one_at_a_time(path: Path) -> FileLock:
    """A `with` that only one process at a time is in, for what all shards share at `path`; free again when that one dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path.with_name(f".{path.name}.lock"))
