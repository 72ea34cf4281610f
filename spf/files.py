"""Files that survive: a folder put in the place of another as a whole, and brought to the disk."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from pathlib import Path


def replace_folder(staged: Path, target: Path) -> None:
    """Put `staged`, which lies beside it, in the place of `target`. Raises OSError; `target` is then as before."""
    old = target.with_name(f".{target.name}-{uuid.uuid4().hex[:8]}-old.partial")
    if target.exists():
        os.rename(target, old)
    try:
        os.rename(staged, target)
    except OSError:
        if old.exists():
            os.rename(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def sync(path: Path) -> None:
    """Bring a file's content, or a folder's list of names, to the disk. Raises OSError, also for a disk that is full."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def is_disk_full(error: BaseException) -> bool:
    """Whether a failed write means that the disk, or this user's part of it, is full; safetensors tells it in words."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "os error 28" in str(error)
