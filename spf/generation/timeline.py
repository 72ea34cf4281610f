"""The steps of customizing one portrait, kept in `studio.sqlite`: a tree, because going back and changing branches.

Steps are only ever added. Which one is on show, and how far redo goes, is one row per timeline, so that a page that is
loaded again, or a server that is started again, goes on where it was.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from spf.config import GenerationRequest, saved_request

_TABLES = """
CREATE TABLE IF NOT EXISTS timeline_steps (
    id INTEGER PRIMARY KEY, timeline TEXT NOT NULL, parent INTEGER, folder TEXT NOT NULL, request TEXT NOT NULL,
    created REAL NOT NULL);
CREATE INDEX IF NOT EXISTS timeline_steps_of ON timeline_steps (timeline);
CREATE TABLE IF NOT EXISTS timeline_positions (timeline TEXT PRIMARY KEY, current INTEGER NOT NULL, tip INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS timeline_pairs (
    step INTEGER NOT NULL, seed TEXT NOT NULL, folder TEXT NOT NULL, PRIMARY KEY (step, folder));
"""
WAIT = 10.0  # seconds for another writer


@dataclass(frozen=True)
class Step:
    """One result of a timeline. Ids grow with time over all timelines."""

    id: int
    parent: int | None
    folder: Path  # of the result, relative to the outputs
    request: GenerationRequest


@dataclass(frozen=True)
class SeedPair:
    """One result of several seeds that were asked for at once, the step's own among them."""

    seed: int
    folder: Path  # relative to the outputs


class Timeline:
    """The steps called `key` in the database `path`, which is made with the first step. Raises OSError if it cannot be used."""

    def __init__(self, path: Path, key: str):
        self.path, self.key = path, key

    def steps(self) -> list[Step]:
        """All of them, oldest first."""
        if not self.path.exists():
            return []
        with self._open() as db:
            rows = db.execute("SELECT id, parent, folder, request FROM timeline_steps WHERE timeline = ? ORDER BY id",
                              (self.key,)).fetchall()
        return [Step(number, parent, Path(folder), saved_request(json.loads(request)))
                for number, parent, folder, request in rows]

    def current(self) -> int | None:
        """The step on show."""
        return self._position()[0]

    def add(self, folder: Path, request: GenerationRequest) -> int:
        """A new step after the current one, on show from now on; returns its id."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._open() as db:
            row = db.execute("SELECT current FROM timeline_positions WHERE timeline = ?", (self.key,)).fetchone()
            step = db.execute(
                "INSERT INTO timeline_steps (timeline, parent, folder, request, created) VALUES (?, ?, ?, ?, ?)",
                (self.key, row[0] if row else None, str(folder), request.model_dump_json(), time.time())).lastrowid
            self._move(db, step, step)
        return step

    def add_pairs(self, step: int, pairs: Sequence[SeedPair]) -> None:
        """Note results that were drawn together with a step; those it has already are left out."""
        with self._open() as db:
            db.executemany("INSERT OR IGNORE INTO timeline_pairs (step, seed, folder) VALUES (?, ?, ?)",
                           [(step, str(pair.seed), str(pair.folder)) for pair in pairs])

    def pairs(self, step: int | None) -> list[SeedPair]:
        """What was drawn together with a step, in that order."""
        if step is None or not self.path.exists():
            return []
        with self._open() as db:
            rows = db.execute("SELECT seed, folder FROM timeline_pairs WHERE step = ? ORDER BY rowid", (step,)).fetchall()
        return [SeedPair(int(seed), Path(folder)) for seed, folder in rows]

    def go(self, step: int) -> None:
        """Show another step. Redo still leads to the tip where that lies beyond it. KeyError for a step of nobody."""
        steps = self.steps()
        if step not in {one.id for one in steps}:
            raise KeyError(step)
        tip = self._position()[1]
        with self._open() as db:
            self._move(db, step, tip if step in path_to(steps, tip) else step)

    def undo(self) -> int | None:
        """The step before the current one, if there is one."""
        parents = {one.id: one.parent for one in self.steps()}
        return parents.get(self.current())

    def redo(self) -> int | None:
        """The step after the current one on the way to the tip, if there is one."""
        current, tip = self._position()
        way = path_to(self.steps(), tip)
        after = way.index(current) + 1 if current in way else len(way)
        return way[after] if after < len(way) else None

    def _position(self) -> tuple[int | None, int | None]:
        if not self.path.exists():
            return None, None
        with self._open() as db:
            row = db.execute("SELECT current, tip FROM timeline_positions WHERE timeline = ?", (self.key,)).fetchone()
        return row or (None, None)

    def _move(self, db: sqlite3.Connection, current: int, tip: int) -> None:
        db.execute("INSERT INTO timeline_positions VALUES (?, ?, ?) ON CONFLICT (timeline) "
                   "DO UPDATE SET current = excluded.current, tip = excluded.tip", (self.key, current, tip))

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            db = sqlite3.connect(self.path, timeout=WAIT)
            try:
                with db:
                    db.executescript(_TABLES)
                    db.execute("BEGIN IMMEDIATE")
                    yield db
            finally:
                db.close()
        except sqlite3.Error as error:
            raise OSError(f"{self.path}: {error}") from error


def path_to(steps: list[Step], step: int | None) -> list[int]:
    """Ids from the first step to `step`, which is last; empty for none."""
    parents, way = {one.id: one.parent for one in steps}, []
    while step is not None:
        way.append(step)
        step = parents[step]
    return way[::-1]


def lanes(steps: list[Step]) -> dict[int, tuple[int, int]]:
    """(row, column) of every step: a first child goes on in its parent's row, every later one opens a row of its own."""
    children: dict[int | None, list[int]] = {}
    for one in steps:
        children.setdefault(one.parent, []).append(one.id)
    places: dict[int, tuple[int, int]] = {}
    rows = 0
    waiting = [(first, 0) for first in reversed(children.get(None, []))]
    while waiting:
        step, column = waiting.pop()
        while step is not None:
            places[step] = (rows, column)
            column += 1
            following = children.get(step, [])
            waiting += [(other, column) for other in reversed(following[1:])]
            step = following[0] if following else None
        rows += 1
    return places
