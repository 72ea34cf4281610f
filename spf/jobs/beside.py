"""Generation while a run trains: allowed where the memory that is free at that moment suffices, refused by name elsewhere."""

from __future__ import annotations

from pathlib import Path

import psutil
import torch

from spf.errors import MemoryShort
from spf.jobs import queue

MARGIN = 512 * 10**6  # bytes for libraries, for the run, which may not have reached its peak, and for everybody else
CGROUP = Path("/sys/fs/cgroup")


def require_room(needed: int, device: torch.device) -> None:
    """What a GenerationService asks before it draws. Raises MemoryShort naming the run that has the memory."""
    run = queue.holding()
    if run is None or (free := free_bytes(device)) >= needed + MARGIN:
        return
    raise MemoryShort(
        f"generate: the run {run} is training and leaves {free / 1e9:.1f} GB free on {device}, and this portrait needs up to "
        f"{(needed + MARGIN) / 1e9:.1f} GB; wait until it is done, ask for a smaller size, or pause it with "
        f"'python -m spf jobs pause {run}'.")


def free_bytes(device: torch.device) -> int:
    """Memory that this process could still take: of the accelerator, else of the machine or of the container it is in."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    available = psutil.virtual_memory().available
    limit = _cgroup_free()
    return available if limit is None else min(available, limit)


def _cgroup_free() -> int | None:
    """What the container's limit leaves, file caches counted as free; None without a limit."""
    try:
        limit = int((CGROUP / "memory.max").read_text())
        used = int((CGROUP / "memory.current").read_text())
        cached = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())["inactive_file"]
    except (OSError, ValueError, KeyError):  # "max", or another version of control groups
        return None
    return limit - used + int(cached)
