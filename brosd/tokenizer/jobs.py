"""Batch jobs on disk: one SQLite file, used by one thread.

A line is stored before `put` returns. A line gets one result, once and for all; results are
numbered 1, 2, ... within their job, in the order of storing.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bros.brosd.wire import JobStatus

SCHEMA_VERSION = 1
PAGE_RESULTS = 512
PAGE_BYTES = 8 * 2**20
MAX_NAME_CHARS = 200
OPEN_STATES = ("validating", "in_progress")

SCHEMA = """
CREATE TABLE jobs (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL,
    created_s REAL NOT NULL,
    total INTEGER NOT NULL DEFAULT 0,
    completed INTEGER NOT NULL DEFAULT 0,
    failed INTEGER NOT NULL DEFAULT 0,
    prompt_tokens INTEGER NOT NULL DEFAULT 0,
    output_tokens INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE lines (
    job INTEGER NOT NULL REFERENCES jobs (id),
    number INTEGER NOT NULL,
    line BLOB NOT NULL,
    custom_id TEXT,
    seq INTEGER,
    result BLOB,
    UNIQUE (job, number)
) STRICT;
CREATE UNIQUE INDEX results ON lines (job, seq) WHERE seq IS NOT NULL;
CREATE INDEX pending ON lines (job, number) WHERE seq IS NULL;
CREATE INDEX custom_ids ON lines (job, custom_id, number);
"""
STATUS = (
    "name, state, created_s, total, completed, failed, prompt_tokens, output_tokens"  # JobStatus
)


class JobError(Exception):
    """A job cannot be used as asked; `code` for programs, the text for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class StoreError(RuntimeError):
    """The file cannot be used; the text says why."""


@dataclass(frozen=True)
class Line:
    """A line that has no result yet."""

    job: int
    number: int
    content: bytes
    is_duplicate: bool  # an earlier line of the job has its custom_id


@dataclass(frozen=True)
class Outcome:
    """The result of one line, as an output line."""

    job: int
    number: int
    result: bytes
    ok: bool
    prompt_tokens: int = 0
    output_tokens: int = 0


class JobStore:
    """The jobs of one state folder. Raises StoreError if its file cannot be used."""

    def __init__(self, path: Path) -> None:
        try:
            self._db = sqlite3.connect(path, isolation_level=None)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute("PRAGMA foreign_keys = ON")
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version == 0:
                create = f"BEGIN; {SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
                self._db.executescript(create)
        except sqlite3.Error as error:
            raise StoreError(f"batch jobs in {path} cannot be used: {error}") from None
        if version > SCHEMA_VERSION:
            raise StoreError(f"batch jobs in {path} are of a newer brosd: update this one")

    def close(self) -> None:
        self._db.close()

    # -- clients ---------------------------------------------------------------------------------

    def put(self, name: str, first: int, lines: Sequence[bytes], last: bool) -> int:
        """Store lines `[first, first + len(lines))`; returns how many of the job are stored.

        Repeating it changes nothing. Lines that would leave a gap are not stored.
        """
        if not 1 <= len(name) <= MAX_NAME_CHARS:
            raise JobError("bad_job_name", f"a job's name has 1 to {MAX_NAME_CHARS} characters")
        with self._transaction():
            job, state, total = self._open(name)
            if first < 0 or first > total:
                return total
            known = total - first
            self._check_same(name, job, first, lines[:known])
            added = lines[known:]
            if (added and state != "validating") or (last and known > len(lines)):
                raise JobError("job_exists", f"job {name} has other lines already: take a new name")
            rows = [
                (job, total + index, line, custom_id_of(line)) for index, line in enumerate(added)
            ]
            insert = "INSERT INTO lines (job, number, line, custom_id) VALUES (?, ?, ?, ?)"
            self._db.executemany(insert, rows)
            total += len(added)
            if state == "validating":
                state = state if not last else "in_progress" if total else "completed"
                update = "UPDATE jobs SET total = ?, state = ? WHERE id = ?"
                self._db.execute(update, (total, state, job))
            return total

    def _open(self, name: str) -> tuple[int, str, int]:
        insert = "INSERT OR IGNORE INTO jobs (name, state, created_s) VALUES (?, 'validating', ?)"
        self._db.execute(insert, (name, time.time()))
        query = "SELECT id, state, total FROM jobs WHERE name = ?"
        job, state, total = self._db.execute(query, (name,)).fetchone()
        return job, state, total

    def _check_same(self, name: str, job: int, first: int, lines: Sequence[bytes]) -> None:
        query = "SELECT line FROM lines WHERE job = ? AND number >= ? ORDER BY number LIMIT ?"
        stored = self._db.execute(query, (job, first, len(lines)))
        if any(old != new for (old,), new in zip(stored, lines, strict=False)):
            raise JobError("job_exists", f"job {name} has other lines already: take a new name")

    def fetch(self, name: str, after: int) -> tuple[JobStatus, list[bytes], int]:
        """Results after number `after`, as many as fit a page, and the number of the last."""
        status = self.status(name)
        query = (
            "SELECT seq, result FROM lines WHERE job = (SELECT id FROM jobs WHERE name = ?)"
            " AND seq > ? ORDER BY seq LIMIT ?"
        )
        results: list[bytes] = []
        num_bytes = 0
        for seq, result in self._db.execute(query, (name, after, PAGE_RESULTS)):
            num_bytes += len(result)
            if results and num_bytes > PAGE_BYTES:
                break
            results.append(result)
            after = seq
        return status, results, after

    def status(self, name: str) -> JobStatus:
        """How far a job is."""
        row = self._db.execute(f"SELECT {STATUS} FROM jobs WHERE name = ?", (name,)).fetchone()
        if row is None:
            raise JobError("job_not_found", f"there is no job {name}: see 'bros batch list'")
        return JobStatus(*row)

    def statuses(self) -> list[JobStatus]:
        """All jobs, newest first."""
        rows = self._db.execute(f"SELECT {STATUS} FROM jobs ORDER BY id DESC")
        return [JobStatus(*row) for row in rows]

    def cancel(self, name: str) -> tuple[int, JobStatus]:
        """Stop a job; what is done stays. Returns its id too."""
        self.status(name)
        update = "UPDATE jobs SET state = 'cancelled' WHERE name = ? AND state IN (?, ?)"
        self._db.execute(update, (name, *OPEN_STATES))
        (job,) = self._db.execute("SELECT id FROM jobs WHERE name = ?", (name,)).fetchone()
        return job, self.status(name)

    # -- the runner ------------------------------------------------------------------------------

    def running(self) -> list[int]:
        """The jobs with lines to run, oldest first."""
        rows = self._db.execute("SELECT id FROM jobs WHERE state = 'in_progress' ORDER BY id")
        return [job for (job,) in rows]

    def pending(self, job: int, after: int, limit: int) -> list[Line]:
        """Lines after number `after` that have no result; none if the job does not run."""
        query = (
            "SELECT number, line, EXISTS (SELECT 1 FROM lines AS other WHERE other.job = lines.job"
            " AND other.custom_id = lines.custom_id AND other.number < lines.number)"
            " FROM lines JOIN jobs ON jobs.id = job"
            " WHERE job = ? AND number > ? AND seq IS NULL AND state = 'in_progress'"
            " ORDER BY number LIMIT ?"
        )
        rows = self._db.execute(query, (job, after, limit))
        return [Line(job, number, line, bool(duplicate)) for number, line, duplicate in rows]

    def finish(self, outcomes: Sequence[Outcome]) -> None:
        """Store results, all in one transaction. A line that has one keeps it."""
        with self._transaction():
            for outcome in outcomes:
                self._finish(outcome)

    def _finish(self, outcome: Outcome) -> None:
        store = (
            "UPDATE lines SET result = ?,"
            " seq = (SELECT completed + failed + 1 FROM jobs WHERE id = lines.job)"
            " WHERE job = ? AND number = ? AND seq IS NULL"
            " AND (SELECT state FROM jobs WHERE id = lines.job) = 'in_progress'"
        )
        key = (outcome.job, outcome.number)
        if not self._db.execute(store, (outcome.result, *key)).rowcount:
            return
        count = (
            "UPDATE jobs SET completed = completed + ?, failed = failed + ?,"
            " prompt_tokens = prompt_tokens + ?, output_tokens = output_tokens + ? WHERE id = ?"
        )
        tokens = (outcome.prompt_tokens, outcome.output_tokens)
        self._db.execute(count, (outcome.ok, not outcome.ok, *tokens, outcome.job))
        close = "UPDATE jobs SET state = 'completed' WHERE id = ? AND completed + failed = total"
        self._db.execute(close, (outcome.job,))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            self._db.rollback()
            raise


class _CustomId(msgspec.Struct):
    custom_id: str


def custom_id_of(line: bytes) -> str | None:
    """The `custom_id` of a line, even if the rest of the line is wrong."""
    try:
        return msgspec.json.decode(line, type=_CustomId).custom_id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        found = json.loads(line).get("custom_id")
        found.encode()
    except (ValueError, AttributeError, RecursionError):
        return None
    return found if isinstance(found, str) else None
