"""Which part of an evaluation this process does: one of several shards, given by hand or by a launcher."""

from __future__ import annotations

import os
import re

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
    import torch

    local = os.environ.get("LOCAL_RANK")
    if given is None and local is not None and torch.cuda.device_count() > int(local):
        return f"cuda:{local}"
    return given
