"""What an evaluation has already made, on disk under a key of everything it depends on: a second run finds it again."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from spf.metrics.base import Rows


def key_of(**facts: Any) -> str:
    """A short name for a set of facts; other facts, another name."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:20]


def fingerprint(*folders: Path) -> str:
    """Of all weights in these folders."""
    digest = hashlib.sha256()
    for path in sorted(path for folder in folders for path in folder.rglob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


class Store:
    """Arrays by key. A file appears whole or not at all; one that cannot be read counts as not there and is made again."""

    def __init__(self, folder: Path):
        self.folder = folder

    def path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.npz"

    def load(self, key: str) -> dict[str, np.ndarray] | None:
        try:
            with np.load(self.path(key), allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
            return None

    def save(self, key: str, arrays: Mapping[str, np.ndarray]) -> None:
        path = self.path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        staged = path.with_name(f".{path.name}.{os.getpid()}.partial")
        with open(staged, "wb") as file:
            np.savez_compressed(file, **arrays)
        os.replace(staged, path)


def pack(rows: Mapping[str, Rows]) -> dict[str, np.ndarray]:
    """Rows of several extractors as arrays without pickled objects."""
    return {f"{name}/{part}": value for name, row in rows.items()
            for part, value in (("values", row.values), ("problems", np.array(row.problems, dtype=np.str_)))}


def unpack(arrays: Mapping[str, np.ndarray]) -> dict[str, Rows]:
    names = {name.rpartition("/")[0] for name in arrays}
    return {name: Rows(arrays[f"{name}/values"], tuple(map(str, arrays[f"{name}/problems"]))) for name in names}
