"""Generation while a run trains: allowed where the memory that is free at that moment suffices, refused by name elsewhere."""

from __future__ import annotations

import torch

from spf.errors import MemoryShort
from spf.generation.room import free_bytes
from spf.jobs import queue

MARGIN = 512 * 10**6  # bytes for libraries, for the run, which may not have reached its peak, and for everybody else


def require_room(needed: int, device: torch.device) -> None:
    """What a GenerationService asks before it draws. Raises MemoryShort naming the run that has the memory."""
    run = queue.holding()
    if run is None or (free := free_bytes(device)) >= needed + MARGIN:
        return
    raise MemoryShort(
        f"generate: the run {run} is training and leaves {free / 1e9:.1f} GB free on {device}, and this portrait needs up to "
        f"{(needed + MARGIN) / 1e9:.1f} GB; wait until it is done, ask for a smaller size, or pause it with "
        f"'python -m spf jobs pause {run}'.")
