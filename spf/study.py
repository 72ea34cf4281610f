"""The blind comparison of the paper's user study (Fig. 15): pairs of two contestants in random order, three questions,
answers in `studio.sqlite`, win rates with their intervals. Knows pictures only by their paths.
"""

from __future__ import annotations

import csv
import io
import json
import math
import random
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

QUESTIONS = ("consistency", "responsiveness", "preference")
ANSWERS = ("left", "right", "tie")
Z = 1.959964  # of a 95 % interval
_TABLES = """
CREATE TABLE IF NOT EXISTS study_sessions (id TEXT PRIMARY KEY, first TEXT NOT NULL, second TEXT NOT NULL, pairs TEXT NOT NULL,
    created REAL NOT NULL);
CREATE TABLE IF NOT EXISTS study_answers (session TEXT NOT NULL, pair INTEGER NOT NULL, question TEXT NOT NULL,
    answer TEXT NOT NULL, created REAL NOT NULL, PRIMARY KEY (session, pair, question));
"""


@dataclass(frozen=True)
class Pair:
    """One comparison: the common original, and the portraits of the first and the second contestant."""

    original: str
    first: str
    second: str
    target: str
    swapped: bool = False  # whether the first contestant is shown on the right

    @property
    def left(self) -> str:
        return self.second if self.swapped else self.first

    @property
    def right(self) -> str:
        return self.first if self.swapped else self.second


@dataclass(frozen=True)
class Score:
    """Of one question: how often the first contestant won. A tie counts half for each; the interval is Wilson's, 95 %."""

    question: str
    wins: int
    losses: int
    ties: int

    @property
    def answers(self) -> int:
        return self.wins + self.losses + self.ties

    @property
    def rate(self) -> float:
        """NaN while nothing was answered."""
        return (self.wins + self.ties / 2) / self.answers if self.answers else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """(0, 1) while nothing was answered."""
        n = self.answers
        if n == 0:
            return 0.0, 1.0
        centre = (self.rate + Z * Z / (2 * n)) / (1 + Z * Z / n)
        half = Z / (1 + Z * Z / n) * math.sqrt(self.rate * (1 - self.rate) / n + Z * Z / (4 * n * n))
        return max(0.0, centre - half), min(1.0, centre + half)


class Study:
    """All comparisons in the database `path`, which is made with the first one. Raises OSError if it cannot be used."""

    def __init__(self, path: Path):
        self.path = path

    def begin(self, session: str, contestants: tuple[str, str], pairs: Sequence[Pair], seed: int) -> None:
        """A session with its pairs in random order, each with its sides by chance."""
        dice = random.Random(seed)
        shuffled = [Pair(**{**vars(pair), "swapped": dice.random() < 0.5}) for pair in pairs]
        dice.shuffle(shuffled)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._open() as db:
            db.execute("INSERT INTO study_sessions VALUES (?, ?, ?, ?, ?)",
                       (session, *contestants, json.dumps([vars(pair) for pair in shuffled]), time.time()))

    def sessions(self) -> list[str]:
        """Newest first."""
        if not self.path.exists():
            return []
        with self._open() as db:
            return [row[0] for row in db.execute("SELECT id FROM study_sessions ORDER BY created DESC, rowid DESC")]

    def contestants(self, session: str) -> tuple[str, str]:
        """KeyError for an unknown session."""
        return self._row(session)[:2]

    def pairs(self, session: str) -> list[Pair]:
        """In the order they are shown. KeyError for an unknown session."""
        return [Pair(**values) for values in json.loads(self._row(session)[2])]

    def next(self, session: str) -> int | None:
        """The first pair with an open question; None when all is answered."""
        done = self._answers(session)
        return next((index for index in range(len(self.pairs(session)))
                     if any((index, question) not in done for question in QUESTIONS)), None)

    def answer(self, session: str, pair: int, answers: dict[str, str]) -> None:
        """Keep the answers to all three questions about one pair; given again, they replace the earlier ones."""
        if set(answers) != set(QUESTIONS) or not set(answers.values()) <= set(ANSWERS):
            raise ValueError(f"answers must give one of {', '.join(ANSWERS)} for each of {', '.join(QUESTIONS)}")
        if not 0 <= pair < len(self.pairs(session)):
            raise KeyError(pair)
        with self._open() as db:
            db.executemany("INSERT OR REPLACE INTO study_answers VALUES (?, ?, ?, ?, ?)",
                           [(session, pair, question, answer, time.time()) for question, answer in answers.items()])

    def scores(self, session: str) -> list[Score]:
        """One for each question, from the first contestant's side."""
        counts = {question: {"first": 0, "second": 0, "tie": 0} for question in QUESTIONS}
        for _, question, winner in self._won(session):
            counts[question][winner] += 1
        return [Score(question, found["first"], found["second"], found["tie"]) for question, found in counts.items()]

    def to_csv(self, session: str) -> str:
        """Every answer in one line, unblinded."""
        names = dict(zip(("first", "second"), self.contestants(session), strict=True)) | {"tie": "tie"}
        pairs, sheet = self.pairs(session), io.StringIO()
        writer = csv.writer(sheet)
        writer.writerow(["pair", "target", "question", "winner", "first_was", "original", "first", "second"])
        for index, question, winner in self._won(session):
            pair = pairs[index]
            writer.writerow([index + 1, pair.target, question, names[winner], "right" if pair.swapped else "left",
                             pair.original, pair.first, pair.second])
        return sheet.getvalue()

    def _won(self, session: str) -> Iterator[tuple[int, str, str]]:
        pairs = self.pairs(session)
        for (index, question), answer in sorted(self._answers(session).items()):
            yield index, question, _winner(answer, pairs[index])

    def _answers(self, session: str) -> dict[tuple[int, str], str]:
        with self._open() as db:
            rows = db.execute("SELECT pair, question, answer FROM study_answers WHERE session = ?", (session,)).fetchall()
        return {(pair, question): answer for pair, question, answer in rows}

    def _row(self, session: str) -> tuple[str, str, str]:
        if not self.path.exists():
            raise KeyError(session)
        with self._open() as db:
            row = db.execute("SELECT first, second, pairs FROM study_sessions WHERE id = ?", (session,)).fetchone()
        if row is None:
            raise KeyError(session)
        return row

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            db = sqlite3.connect(self.path, timeout=10)
            try:
                with db:
                    db.executescript(_TABLES)
                    yield db
            finally:
                db.close()
        except sqlite3.Error as error:
            raise OSError(f"{self.path}: {error}") from error


def _winner(answer: str, pair: Pair) -> str:
    if answer == "tie":
        return "tie"
    return "first" if (answer == "left") != pair.swapped else "second"
