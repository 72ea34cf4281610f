"""Putting a folder in the place of another, so that a reader finds the old one or the new one, complete."""

from __future__ import annotations

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
