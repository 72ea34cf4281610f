"""Where an import works until what it brings is whole: a folder of its own, which a later import clears if it was killed."""

from __future__ import annotations

import os
import platform
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from spf.config import home

_NAME = r"\.import-(?P<node>.+)-(?P<pid>\d+)-(?P<created>\d+)-[0-9a-f]{8}\.partial"


@contextmanager
def working_folder() -> Iterator[Path]:
    """A new folder beside the customizations, which is gone at the end. Raises OSError."""
    root = home() / "customizations"
    made = [place for place in (root, home()) if not place.exists()]
    clear_abandoned(root)
    folder = root / _name()
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for place in made:
            with suppress(OSError):  # there is something in it
                place.rmdir()


def clear_abandoned(root: Path) -> None:
    """Remove the folders of imports whose process is gone. Those of other computers that share the disk stay."""
    for path in root.glob(".import-*.partial"):
        named = re.fullmatch(_NAME, path.name)
        if named and named["node"] == _node() and not _is_alive(int(named["pid"]), int(named["created"])):
            shutil.rmtree(path, ignore_errors=True)


def _name() -> str:
    """Two at one time never meet, and each says whose it is."""
    return f".import-{_node()}-{os.getpid()}-{psutil.Process().create_time():.0f}-{uuid.uuid4().hex[:8]}.partial"


def _node() -> str:
    return re.sub(r"[^A-Za-z0-9.]", "", platform.node())[:64] or "here"


def _is_alive(pid: int, created: int) -> bool:
    """Whether this very process works still: a later one may have the same number."""
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - created) < 2 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
