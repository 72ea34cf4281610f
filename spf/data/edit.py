"""Changing a picture folder in place: texts, removed pictures, and undo.

Only metadata.jsonl changes, replaced whole; a removed picture is no longer listed, and its file stays. What was there before
each step is kept in `.history/`, so every step can be taken back, also after the page was closed. A folder with caption
files gets a metadata.jsonl by its first step; the caption files stay as they are and are not read any more.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from spf.data.captions import Reading
from spf.data.layouts import read_layout
from spf.data.metadata import CAPTION, METADATA, Row, clean, text_complaints, to_line
from spf.data.problems import count, shown
from spf.errors import DataError
from spf.files import sync

HISTORY = ".history"
STEPS_KEPT = 100


@dataclass(frozen=True)
class Step:
    """One change, and the metadata before it (None where there was none)."""

    number: int
    what: str
    when: float  # seconds since the epoch
    before: str | None
    removed: tuple[str, ...] = ()  # the lines that were taken out


def set_all_texts(folder: Path, texts: Mapping[Row, tuple[str, str]], reading: Reading = Reading()) -> None:
    """Give listed pictures other texts (base, target), as one step: all or nothing.

    Raises DataError for unusable texts, and for a row that is not there any more.
    """
    for row, pair in texts.items():
        if complaints := text_complaints(*pair):
            raise DataError(f"{shown(row.file_name)}: {complaints[0][1]}")
    by_name = {row.file_name: pair for row, pair in texts.items()}

    def changed(values: dict[str, Any]) -> dict[str, Any]:
        kept = {name: value for name, value in values.items() if name != CAPTION}
        base_text, target_text = map(clean, by_name[values["file_name"]])
        return kept | {"base_text": base_text, "target_text": target_text}

    names = next(iter(by_name)) if len(by_name) == 1 else count(len(by_name), "picture")
    _change(folder, list(texts), f"texts of {names}", changed, reading)


def remove(folder: Path, rows: Sequence[Row], reading: Reading = Reading()) -> None:
    """List pictures no longer; their files stay. Raises DataError, also if none would be left."""
    names = rows[0].file_name if len(rows) == 1 else count(len(rows), "picture")
    _change(folder, rows, f"removed {names}", lambda values: None, reading)


def removed(folder: Path) -> list[str]:
    """Lines of metadata.jsonl whose picture an earlier step removed, the last removed first; `restore` takes them."""
    root = read_layout(Path(folder)).root
    listed, found = {_name(line) for line in _lines(_content(root))}, {}
    for step in reversed(steps(folder)):
        for line in step.removed:
            name = _name(line)
            if name and name not in listed and (root / name).is_file():
                found.setdefault(name, line)
    return list(found.values())


def restore(folder: Path, line: str) -> None:
    """List a removed picture again, at the end. Raises DataError if it is not one of `removed`."""
    if line not in removed(folder):
        raise DataError("the picture is listed already, or its file is gone; look at the folder again")
    root = read_layout(Path(folder)).root
    before = _content(root)
    _write(root, before, "".join(f"{text}\n" for text in [*_lines(before), line]), f"restored {_name(line)}")


def undo(folder: Path, number: int = 1) -> list[str]:
    """Take back the last steps, at most as many as there are; what they were, the newest first. Raises DataError."""
    root, undone = read_layout(Path(folder)).root, []
    for step in reversed(steps(folder)[-number:] if number > 0 else []):
        _put(root / METADATA, step.before)
        _put(_step_file(root, step.number), None)
        undone.append(step.what)
    return undone


def steps(folder: Path) -> list[Step]:
    """Every step that can be taken back, the oldest first. A damaged entry of the history is left out."""
    found = []
    for path in sorted((read_layout(Path(folder)).root / HISTORY).glob("*.json")):
        try:
            found.append(Step(**json.loads(path.read_text(encoding="utf-8"))))
        except (OSError, ValueError, TypeError):
            continue
    return found


def _change(folder: Path, rows: Sequence[Row], what: str, change: Callable[[dict[str, Any]], dict[str, Any] | None],
            reading: Reading) -> None:
    """Replace the lines of some rows by what `change` makes of them; None drops the line."""
    layout = read_layout(Path(folder), reading)
    if any(row not in layout.rows for row in rows):
        raise DataError(f"{shown(str(folder), 200)} was changed meanwhile; look at it again, then repeat the change")
    before = _content(layout.root)
    if layout.kind == "metadata":
        lines = before.split("\n")
        places = {row.line - 1 for row in rows}
    else:
        lines = [to_line(row.file_name, row.base_text, row.target_text, row.repeats).strip() for row in layout.rows]
        places = {layout.rows.index(row) for row in rows}
    changed = {place: change(json.loads(lines[place])) for place in places}
    dropped = tuple(lines[place] for place in sorted(places) if changed[place] is None)
    kept = [json.dumps(changed[place], ensure_ascii=False) if changed.get(place) else line
            for place, line in enumerate(lines) if changed.get(place, line) is not None]
    if not any(line.strip() for line in kept):
        raise DataError(f"{shown(str(folder), 200)}: this would leave no picture; delete the folder instead")
    _write(layout.root, before, "\n".join(kept).rstrip("\n") + "\n", what, dropped)


def _write(root: Path, before: str | None, after: str, what: str, dropped: tuple[str, ...] = ()) -> None:
    """First the way back, then the change: whatever stops it, no step is lost."""
    known = sorted((root / HISTORY).glob("*.json"))
    number = int(known[-1].stem) + 1 if known else 1
    step = Step(number, shown(what, 200), time.time(), before, dropped)
    _put(_step_file(root, number), json.dumps(asdict(step), ensure_ascii=False))
    _put(root / METADATA, after)
    for path in known[:max(0, len(known) + 1 - STEPS_KEPT)]:
        _put(path, None)


def _put(path: Path, content: str | None) -> None:
    """Replace a file as a whole, or delete it. Raises DataError; the file is then as it was."""
    staged = path.with_name(f".{path.name}-{uuid.uuid4().hex[:8]}.partial")
    try:
        if content is None:
            path.unlink(missing_ok=True)
            return
        path.parent.mkdir(exist_ok=True)
        staged.write_text(content, encoding="utf-8", newline="\n")
        sync(staged)
        os.replace(staged, path)
    except OSError as error:
        staged.unlink(missing_ok=True)
        reason = f"cannot be written ({error.strerror or error}); free some space or check its permissions"
        raise DataError(f"{shown(str(path), 200)} {reason}") from error


def _step_file(root: Path, number: int) -> Path:
    return root / HISTORY / f"{number:08d}.json"


def _content(root: Path) -> str | None:
    path = root / METADATA
    if not path.is_file():
        return None
    try:
        return path.read_bytes().removeprefix(b"\xef\xbb\xbf").decode("utf-8")
    except UnicodeDecodeError:
        raise DataError(f"{shown(str(path), 200)} is not UTF-8 text; save it as UTF-8 before you change anything") from None


def _lines(content: str | None) -> list[str]:
    return [line for line in (content or "").split("\n") if line.strip()]


def _name(line: str) -> str:
    """The picture that a line lists; "" if it lists none."""
    try:
        values = json.loads(line)
    except ValueError:
        return ""
    name = values.get("file_name") if isinstance(values, dict) else None
    return name if isinstance(name, str) else ""
