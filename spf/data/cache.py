"""Tensors on disk by the hash of what they were computed from, so that a second run over the same pictures encodes nothing.

One safetensors file per entry, written beside its place and renamed: two processes may use one cache. An entry that is
damaged counts as absent, and a disk that is full only means that nothing is remembered. The least recently used go first.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

VERSION = 1  # of what entries mean; a new one forgets all old ones
ABANDONED = 3600.0  # seconds after which a half-written file is nobody's any more

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Entry:
    """What is remembered: tensors, on the CPU, and a line of text."""

    tensors: dict[str, Tensor]
    note: str = ""


def key_of(**parts: Any) -> str:
    """SHA-256 of everything that a result depends on, as plain JSON values."""
    return hashlib.sha256(json.dumps([VERSION, parts], sort_keys=True).encode()).hexdigest()


class TensorCache:
    """A folder of entries, at most `limit_bytes` large after `trim`."""

    def __init__(self, root: Path, limit_bytes: int):
        self.root, self.limit_bytes = root, limit_bytes
        self._complained = False

    def get(self, key: str) -> Entry | None:
        """The entry, which is now the most recently used one; None if there is none, or it is not as it was written."""
        path = self._path(key)
        try:
            with safe_open(path, framework="pt") as file:
                told = file.metadata() or {}
                entry = Entry({name: file.get_tensor(name) for name in file.keys()}, told.get("note", ""))
            if told.get("sha256") != _digest(entry):
                return None
            os.utime(path)
        except (OSError, SafetensorError):
            return None
        return entry

    def put(self, key: str, entry: Entry) -> None:
        """Remember an entry. A failure to write is logged once and otherwise ignored."""
        path = self._path(key)
        staged = path.with_name(f".{uuid.uuid4().hex}.partial")
        tensors = {name: value.detach().cpu().contiguous() for name, value in entry.tensors.items()}
        content = save(tensors, metadata={"note": entry.note, "sha256": _digest(Entry(tensors, entry.note))})
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            staged.write_bytes(content)
            os.replace(staged, path)
        except OSError as error:
            with suppress(OSError):
                staged.unlink()
            if not self._complained:
                logger.warning("Encoded pictures and texts are not kept for the next run: %s", error.strerror or error)
            self._complained = True

    def trim(self) -> int:
        """Delete the least recently used entries until the limit holds; the bytes that were freed."""
        found = sorted(self._entries())
        excess, freed = sum(size for _, size, _ in found) - self.limit_bytes, 0
        for _, size, path in found:
            if freed >= excess:
                break
            with suppress(OSError):  # another process was quicker
                path.unlink()
            freed += size
        return freed

    def _entries(self) -> list[tuple[float, int, Path]]:
        """(last use, bytes, path) of every entry; half-written files that were abandoned are deleted."""
        found = []
        for path in self.root.glob("*/*"):
            try:
                facts = path.stat()
                if path.suffix == ".safetensors":
                    found.append((facts.st_mtime, facts.st_size, path))
                elif path.suffix == ".partial" and facts.st_mtime < time.time() - ABANDONED:
                    path.unlink()
            except OSError:
                continue  # another process was quicker
        return found

    def _path(self, key: str) -> Path:
        return self.root / key[:2] / f"{key}.safetensors"


def _digest(entry: Entry) -> str:
    """SHA-256 of names, shapes, types, values and note: safetensors itself has no checksum."""
    total = hashlib.sha256(entry.note.encode())
    for name, value in sorted(entry.tensors.items()):
        total.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        total.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()
