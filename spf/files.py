"""Files that survive: a folder put in the place of another as a whole, and brought to the disk."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of <linux/fcntl.h> and <linux/fs.h>


def replace_folder(staged: Path, target: Path) -> None:
    """Put `staged`, which lies beside it, in the place of `target`. Raises OSError; `target` is then as before.

    Where the system can exchange two names in one step (Linux), `target` is there at every moment, also if the process is killed.
    """
    if _exchange(staged, target):
        shutil.rmtree(staged, ignore_errors=True)
        return
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


def _exchange(one: Path, other: Path) -> bool:
    """Give each of two paths the other's content in one step; False where it cannot be done so, and nothing has changed."""
    swap = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform == "linux" else None
    return swap is not None and swap(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0


def probe(target: Path) -> None:
    """Raises OSError if nothing can be written at `target`, a file or folder that need not be there yet.

    It is tried, in a folder that is gone again: permissions alone do not tell of a disk that is read-only.
    """
    target = Path(os.path.abspath(target))
    above = next(parent for parent in target.parents if os.path.lexists(parent))
    for place in (above, target) if target.is_dir() else (above,):
        tried = place / f".{target.name}-{uuid.uuid4().hex[:8]}.partial"
        tried.mkdir()
        tried.rmdir()


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """A path beside `target` to write to: a file, or a folder that is made there. It takes the place of `target` at the end.

    Raises OSError; nothing is then left, and `target` is as before.
    """
    target = Path(os.path.abspath(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    path = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        yield path
        if path.is_dir():
            replace_folder(path, target)
        else:
            sync(path)
            os.replace(path, target)
    finally:
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file. Raises OSError as every other file does; the library has an error of its own."""
    from safetensors import SafetensorError  # with torch, which a listing does without
    from safetensors.torch import save_file

    try:
        save_file(dict(tensors), path, metadata=metadata)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None


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
