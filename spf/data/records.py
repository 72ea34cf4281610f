"""What a training set consists of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from spf.config import TrainConfig
from spf.data.captions import Reading
from spf.data.check import Window, examine
from spf.data.metadata import clean
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


def read_training_set(config: TrainConfig, window: Window | None = None) -> list[Record]:
    """The pictures of a training run. Raises DataError naming every problem."""
    reading = Reading(config.target_texts, clean(config.base_text))
    return read_folder(Path(config.data), reading=reading, window=window)


def read_folder(folder: Path, *, minimum_size: int = MINIMUM_SIZE, reading: Reading = Reading(),
                window: Window | None = None) -> list[Record]:
    """The records of a folder, in the order in which it lists them, each as often as its repeats say.

    Raises DataError naming every problem.
    """
    report, rows = examine(folder, minimum_size, reading, window)
    if report.ok:
        return [Record(path, row.base_text, row.target_text) for path, row in rows for _ in range(row.repeats)]
    lines = [str(problem) for problem in report.problems[:PROBLEMS_SHOWN]]
    if len(report.problems) > PROBLEMS_SHOWN:
        lines.append(f"+{len(report.problems) - PROBLEMS_SHOWN:,} more")
    name = shown(str(folder), 200)
    raise DataError(
        f"data: {name} has {count(len(report.problems), 'problem')}; correct what is named below, "
        f"then look again with `python -m spf dataset check {name}`", lines)
