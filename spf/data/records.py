"""What a training set consists of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from spf.data.check import examine
from spf.data.pictures import MINIMUM_SIZE
from spf.data.problems import count, shown
from spf.errors import DataError

PROBLEMS_SHOWN = 50


@dataclass(frozen=True)
class Record:
    """One picture, the text for what the original model would draw, and the text for what the target adds."""

    path: Path
    base_text: str
    target_text: str


def read_folder(folder: Path, *, minimum_size: int = MINIMUM_SIZE) -> list[Record]:
    """The records of a folder, in the order of its metadata.jsonl. Raises DataError naming every problem."""
    report, rows = examine(folder, minimum_size)
    if report.ok:
        return [Record(path, row.base_text, row.target_text) for path, row in rows]
    lines = [str(problem) for problem in report.problems[:PROBLEMS_SHOWN]]
    if len(report.problems) > PROBLEMS_SHOWN:
        lines.append(f"+{len(report.problems) - PROBLEMS_SHOWN:,} more")
    name = shown(str(folder), 200)
    raise DataError(
        f"data: {name} has {count(len(report.problems), 'problem')}; correct what is named below, "
        f"then look again with `python -m spf dataset check {name}`", lines)
