"""The queue of training jobs in `studio.sqlite`, and the one lease on each device. Needs no torch.

Everything that must not happen twice is a constraint of the database: one active job per customization, one holder of
a device. A process is known by its pid and when it began, so a later process with the same number is
nobody's; no process is ever signalled by what is written here.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from spf.config import home
from spf.errors import AlreadyUnderWay, TrainingError
from spf.training.process import Holder

DEVICE = "device"  # where a job trains that names no other: one at a time
_TABLES = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('queued', 'running', 'paused', 'completed', 'failed', 'cancelled', 'interrupted')),
    queued REAL NOT NULL,
    worker_pid INTEGER,
    worker_created REAL,
    exit_code INTEGER,
    message TEXT NOT NULL DEFAULT '',
    log_tail TEXT NOT NULL DEFAULT '',
    device TEXT NOT NULL DEFAULT 'device'
);
CREATE UNIQUE INDEX IF NOT EXISTS one_active_job_per_customization ON jobs (name) WHERE state IN ('queued', 'running');
CREATE TABLE IF NOT EXISTS lease (device TEXT PRIMARY KEY, job TEXT NOT NULL, pid INTEGER NOT NULL, created REAL NOT NULL);
"""


@dataclass(frozen=True)
class Job:
    """A row of the queue. `queued` is seconds since the epoch."""

    id: str
    name: str
    state: str
    queued: float
    worker: Holder | None
    exit_code: int | None
    message: str
    log_tail: str

    @property
    def active(self) -> bool:
        return self.state in ("queued", "running")

    def is_attended(self) -> bool:
        """Whether a process waits for its turn with it, or looks after its training."""
        return self.worker is not None and self.worker.is_alive()


def path() -> Path:
    return home() / "studio.sqlite"


def jobs() -> list[Job]:
    """All jobs, newest first; none, and no file, before the first one."""
    if not path().exists():
        return []
    with _database() as database:
        return [_job(row) for row in database.execute("SELECT * FROM jobs ORDER BY queued DESC, id DESC")]


def job(job_id: str) -> Job | None:
    """The job of a run; None for a run that was made before there was a queue."""
    if not path().exists():
        return None
    with _database() as database:
        row = database.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone()
    return None if row is None else _job(row)


def add(job_id: str, name: str, worker: Holder, device: str = DEVICE) -> None:
    """Queue a job that `worker` attends to for now. Raises AlreadyUnderWay while another teaches the same customization."""
    with _database() as database:
        try:  # a run whose folder was deleted may have had the same name
            database.execute("DELETE FROM jobs WHERE id = ? AND state NOT IN ('queued', 'running')", (job_id,))
            database.execute(
                "INSERT INTO jobs (id, name, state, queued, worker_pid, worker_created, device) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (job_id, name, "queued", time.time(), worker.pid, worker.created, device))
        except sqlite3.IntegrityError:
            raise _taken(database, name) from None


def requeue(job_id: str, worker: Holder, device: str = DEVICE) -> bool:
    """Queue a finished job again; False where somebody else just did. Raises AlreadyUnderWay as `add` does."""
    with _database() as database:
        try:
            changed = database.execute(
                "UPDATE jobs SET state = 'queued', queued = ?, worker_pid = ?, worker_created = ?, device = ?, exit_code = NULL, "
                "message = '', log_tail = '' WHERE id = ? AND state NOT IN ('queued', 'running', 'completed')",
                (time.time(), worker.pid, worker.created, device, job_id))
        except sqlite3.IntegrityError:
            name = database.execute("SELECT name FROM jobs WHERE id = ?", (job_id,)).fetchone()["name"]
            raise _taken(database, name) from None
        return changed.rowcount == 1


def attend(job_id: str, worker: Holder) -> None:
    """From now on `worker` looks after the job."""
    with _database() as database:
        database.execute("UPDATE jobs SET worker_pid = ?, worker_created = ? WHERE id = ?",
                         (worker.pid, worker.created, job_id))


def remove(job_id: str) -> None:
    """Forget a job that never began."""
    with _database() as database:
        database.execute("DELETE FROM jobs WHERE id = ?", (job_id,))


def acquire(job_id: str, me: Holder) -> bool:
    """Take its device for a queued job, unless it is held or an earlier job waits for it. Takes over from the dead."""
    with _transaction() as database:
        own = database.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone()
        if _other(database, own["device"], job_id) is not None:
            return False
        earlier = database.execute(
            "SELECT * FROM jobs WHERE state = 'queued' AND device = ? AND (queued, id) < (?, ?)",
            (own["device"], own["queued"], job_id)).fetchall()
        if any(_job(row).is_attended() for row in earlier):
            return False
        _hold(database, own["device"], job_id, me)
        database.execute("UPDATE jobs SET state = 'running' WHERE id = ?", (job_id,))
        return True


def claim(job_id: str, me: Holder) -> None:
    """Let the training process itself hold the device. Raises TrainingError if another job took it meanwhile."""
    with _transaction() as database:
        own = database.execute("SELECT device FROM jobs WHERE id = ?", (job_id,)).fetchone()
        device = own["device"] if own else DEVICE
        if (other := _other(database, device, job_id)) is not None:
            raise TrainingError(f"train: the device is taken by the run {other}; wait until it is done, or cancel it.")
        _hold(database, device, job_id, me)


def holding() -> str | None:
    """A job whose living process holds a device."""
    if not path().exists():
        return None
    with _database() as database:
        rows = database.execute("SELECT * FROM lease ORDER BY device").fetchall()
    return next((row["job"] for row in rows if Holder(row["pid"], row["created"]).is_alive()), None)


def finish(job_id: str, state: str, message: str, exit_code: int | None, log_tail: str) -> None:
    """Record how a job ended and free the device, at one moment."""
    with _transaction() as database:
        database.execute("UPDATE jobs SET state = ?, message = ?, exit_code = ?, log_tail = ? WHERE id = ?",
                         (state, message, exit_code, log_tail, job_id))
        database.execute("DELETE FROM lease WHERE job = ?", (job_id,))


def _hold(database: sqlite3.Connection, device: str, job_id: str, me: Holder) -> None:
    database.execute("INSERT OR REPLACE INTO lease VALUES (?, ?, ?, ?)", (device, job_id, me.pid, me.created))


def _other(database: sqlite3.Connection, device: str, job_id: str) -> str | None:
    """Another job than `job_id` whose living process holds the device."""
    row = database.execute("SELECT * FROM lease WHERE device = ? AND job != ?", (device, job_id)).fetchone()
    return row["job"] if row is not None and Holder(row["pid"], row["created"]).is_alive() else None


def _taken(database: sqlite3.Connection, name: str) -> AlreadyUnderWay:
    row = database.execute("SELECT id FROM jobs WHERE name = ? AND state IN ('queued', 'running')", (name,)).fetchone()
    return AlreadyUnderWay(f"A training run that teaches '{name}' is already under way ({row['id'] if row else name}); "
                         "wait until it is done, or cancel it.")


def _job(row: sqlite3.Row) -> Job:
    worker = None if row["worker_pid"] is None else Holder(row["worker_pid"], row["worker_created"])
    return Job(row["id"], row["name"], row["state"], row["queued"], worker, row["exit_code"], row["message"], row["log_tail"])


@contextmanager
def _database() -> Iterator[sqlite3.Connection]:
    """A connection in which every statement is a transaction of its own. Raises TrainingError naming the file."""
    path().parent.mkdir(parents=True, exist_ok=True)
    database = None
    try:
        database = sqlite3.connect(path(), timeout=60, isolation_level=None)
        database.row_factory = sqlite3.Row
        database.executescript(_TABLES)
        _complete(database)
        yield database
    except sqlite3.DatabaseError as error:
        raise TrainingError(f"jobs: {path()} cannot be used ({error}); free some space, or move the file away.") from error
    finally:
        if database is not None:
            database.close()


def _complete(database: sqlite3.Connection) -> None:
    """Give the queue of an earlier version the column that it lacks."""
    if all(row["name"] != "device" for row in database.execute("PRAGMA table_info(jobs)")):
        with suppress(sqlite3.OperationalError):  # another process was quicker; a disk that is full shows at the next statement
            database.execute(f"ALTER TABLE jobs ADD COLUMN device TEXT NOT NULL DEFAULT '{DEVICE}'")


@contextmanager
def _transaction() -> Iterator[sqlite3.Connection]:
    """A connection that nobody else writes beside."""
    with _database() as database:
        database.execute("BEGIN IMMEDIATE")
        try:
            yield database
        except BaseException:
            database.rollback()
            raise
        database.commit()
