"""SHA-256 of weights files. Large ones are read once, not by every command: theirs are kept in the user's data folder."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from spf.backbones.headers import file_stamp, read_header
from spf.config import home

KEPT_FROM = 64 << 20  # bytes; smaller ones take no time
_MOST = 200  # files that are remembered
_NAME = "digests.json"  # {path: [mtime in ns, size, inode, digest]}
_MAX_BYTES = 1 << 20


def sha256(path: Path) -> str:
    """Of a weights file as it is now. Raises OSError, and ModelNotFound for a file that is no safetensors."""
    return _sha256(path.resolve(), *file_stamp(path))


@lru_cache(maxsize=64)
def _sha256(path: Path, mtime_ns: int, size: int) -> str:
    read_header(path)  # endless bytes that are no model are never read
    if size < KEPT_FROM:
        return _digest(path)
    stamp, known = [mtime_ns, size, os.stat(path).st_ino], _remembered()
    entry = known.get(str(path))
    if isinstance(entry, list) and entry[:-1] == stamp and isinstance(entry[-1], str):
        return entry[-1]
    digest = _digest(path)
    _remember({**known, str(path): [*stamp, digest]})
    return digest


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remembered() -> dict[str, Any]:
    """What was kept; nothing if that cannot be read, since everything can be read anew."""
    try:
        with open(home() / _NAME, "rb") as file:
            known = json.loads(file.read(_MAX_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return known if isinstance(known, dict) else {}


def _remember(known: dict[str, Any]) -> None:
    newest = dict(list(known.items())[-_MOST:])
    staged = home() / f".{_NAME}.{os.getpid()}.partial"
    with suppress(OSError):  # a folder that cannot be written costs time, nothing else
        home().mkdir(parents=True, exist_ok=True)
        staged.write_text(json.dumps(newest, indent=0), encoding="utf-8")
        os.replace(staged, home() / _NAME)
