"""One process or many: what `accelerate launch` and `torchrun` started, and what they failed to start."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from spf.errors import InvalidInput

_STARTED = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")


def accelerator_for(device: torch.device, mixed_precision: str = "no") -> Accelerator:
    """The accelerator of this process. Raises InvalidInput where a launcher silently started one process for many."""
    refuse_lonely_process(os.environ)
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision=mixed_precision)
    if accelerator.num_processes != process_count():  # mpirun, for one: nobody would know who may write
        raise InvalidInput("--num_processes", f"this launcher started {accelerator.num_processes} processes without saying so; "
                           "use 'torchrun --nproc_per_node N -m spf train ...' instead")
    return accelerator


def process_count() -> int:
    """How many processes were started together; known before torch is asked."""
    return int(os.environ.get("WORLD_SIZE", 1))


def process_rank() -> int:
    """The number of this process among them, from 0. Only number 0 writes."""
    return int(os.environ.get("RANK", 0))


def refuse_lonely_process(environment: Mapping[str, str]) -> None:
    """`accelerate launch --num_processes N` without N accelerators starts ONE process and says nothing.

    It leaves an address to meet at (only for N > 1) and nobody to meet. Raises InvalidInput.
    """
    launched = "ACCELERATE_MIXED_PRECISION" in environment and "MASTER_ADDR" in environment
    if launched and not any(name in environment for name in _STARTED):
        raise InvalidInput("--num_processes", (
            "accelerate launch started a single process instead of several, as it does on a CPU; "
            "use 'torchrun --nproc_per_node N -m spf ...' instead"))


def from_first(value: object, accelerator: Accelerator) -> object:
    """What process 0 holds, in every process; small things only."""
    if accelerator.num_processes == 1:
        return value
    return broadcast_object_list([value], from_process=0)[0]
