"""The picture sets on this computer: a list to choose from, a report of what is wrong, captions that can be changed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from spf.config import home
from spf.data import edit, metadata
from spf.data.check import check_folder
from spf.errors import DataError, InvalidInput
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
    path = folder(name)
    texts = {str(file): (str(base or ""), str(target or "")) for file, base, target in edited}
    rows, _ = metadata.read_rows(path / metadata.METADATA)
    changed = {row: texts[row.file_name] for row in rows
               if texts.get(row.file_name, (row.base_text, row.target_text)) != (row.base_text, row.target_text)}
    if changed:
        try:
            edit.set_all_texts(path, changed)
        except DataError as error:
            raise InvalidInput("data", str(error)) from None
    return report(name)
