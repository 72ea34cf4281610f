"""The picture sets on this computer: a list to choose from, a report of what is wrong, captions that can be changed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from spf.config import home
from spf.data import metadata
from spf.data.check import check_folder
from spf.errors import InvalidInput
from spf.ui import strings

ROWS_SHOWN = 500


def folders() -> dict[str, Path]:
    """Every picture set under `datasets` by name, the newest first."""
    found = (home() / "datasets").glob(f"*/{metadata.METADATA}")
    newest = sorted((path.parent for path in found), key=lambda path: path.stat().st_mtime, reverse=True)
    return {path.name: path for path in newest}


def folder(name: str | None) -> Path:
    """Raises InvalidInput for one that is not in the list."""
    found = folders().get(name or "")
    if found is None:
        raise InvalidInput("data", strings.NO_CHOICE)
    return found


def report(name: str | None) -> str:
    """What is good and bad about a set, in lines. Raises InvalidInput."""
    path = folder(name)
    return check_folder(path).to_text().removeprefix(f"{path}: ")


def captions(name: str | None) -> list[list[str]]:
    """(file name, base text, target text) of a set's pictures, at most ROWS_SHOWN. Raises InvalidInput."""
    rows, _ = metadata.read_rows(folder(name) / metadata.METADATA)
    return [[row.file_name, row.base_text, row.target_text] for row in rows[:ROWS_SHOWN]]


def save_captions(name: str | None, edited: Sequence[Sequence[str]]) -> str:
    """Write changed texts into a set, all or nothing; returns its new report. Raises InvalidInput naming the first bad row."""
    path = folder(name) / metadata.METADATA
    texts = {str(file): (metadata.clean(str(base or "")), metadata.clean(str(target or ""))) for file, base, target in edited}
    for file, (base, target) in texts.items():
        if complaints := metadata.text_complaints(base, target):
            raise InvalidInput("data", f"{file}: {complaints[0][1]}")
    rows, _ = metadata.read_rows(path)
    lines = [metadata.to_line(row.file_name, *texts.get(row.file_name, (row.base_text, row.target_text)), row.repeats)
             for row in rows]
    staged = path.with_name(path.name + ".partial")
    staged.write_text("".join(lines), encoding="utf-8")
    os.replace(staged, path)
    return report(name)
