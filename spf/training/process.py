"""A process told from every later one with the same number."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Holder:
    """A process that cannot be mistaken for a later one."""

    pid: int
    created: float  # its `birth`

    @classmethod
    def this_process(cls) -> Holder:
        return cls.of(os.getpid())

    @classmethod
    def of(cls, pid: int) -> Holder:
        """Raises psutil.NoSuchProcess."""
        return cls(pid, birth(pid))

    def is_alive(self) -> bool:
        try:
            return abs(birth(self.pid) - self.created) < 0.1 and psutil.Process(self.pid).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


def birth(pid: int) -> float:
    """A number that a process keeps as long as it lives, and that no later one with its pid has, also after a restart.

    Raises psutil.NoSuchProcess. Where the kernel names the boot (Linux), seconds since it: psutil counts them from a time of
    the boot that moves with the clock, and a clock that is set, as after a laptop's sleep, would make all processes others.
    """
    if (boot := _boot()) is None:
        return psutil.Process(pid).create_time()
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        raise psutil.NoSuchProcess(pid) from None
    return boot + int(fields[19]) / os.sysconf("SC_CLK_TCK")  # field 22 of proc(5), in ticks since the boot


@cache
def _boot() -> float | None:
    """A number for this boot, so far from those of others that no uptime reaches them; small enough for hundredths beside it."""
    try:
        return float(int(_BOOT_ID.read_text().replace("-", ""), 16) % 10**5 * 10**8)
    except (OSError, ValueError):
        return None
