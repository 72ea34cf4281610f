"""Where an import works until what it brings is whole: a folder of its own, which a later import clears if it was killed."""

from __future__ import annotations

import platform
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from spf.config import home
from spf.training.process import Holder

_NAME = r"\.import-(?P<node>.+)-(?P<pid>\d+)-(?P<created>[\d.]+)-[0-9a-f]{8}\.partial"


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
        if named and named["node"] == _node() and not Holder(int(named["pid"]), float(named["created"])).is_alive():
            shutil.rmtree(path, ignore_errors=True)


def _name() -> str:
    """Two at one time never meet, and each says whose it is."""
    mine = Holder.this_process()
    return f".import-{_node()}-{mine.pid}-{mine.created:.2f}-{uuid.uuid4().hex[:8]}.partial"


def _node() -> str:
    return re.sub(r"[^A-Za-z0-9.]", "", platform.node())[:64] or "here"
