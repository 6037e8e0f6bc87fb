"""Batch jobs on disk: one SQLite file, used by one thread. `JobStore` says what holds of them."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Sequence

from bros.brosd.protocol.wire import JobStatus
from bros.brosd.tokenizer.jobs.errors import JobError
from bros.brosd.tokenizer.jobs.job import Job, JobSpec, Line, Outcome, custom_id_of
from bros.brosd.tokenizer.jobs.sqlite.database import transaction

PAGE_RESULTS = 512
PAGE_BYTES = 8 * 2**20
PURGE_LINES = 5000  # deleted in one transaction
MAX_NAME_CHARS = 200
STATUS = (
    "name, state, created_s, total, completed, failed, prompt_tokens, output_tokens, ended_s,"
    " expires_s"  # JobStatus
)


_JOB_COLUMNS = ", ".join(Job.__dataclass_fields__)


class SqliteJobs:
    """The jobs of one state folder."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    # -- clients ---------------------------------------------------------------------------------

    def create(self, name: str, spec: JobSpec) -> Job:
        """Store a job whose lines come from a file, through `put`."""
        insert = (
            "INSERT INTO jobs (name, state, created_s, endpoint, input_file, window, metadata,"
            " expires_s) VALUES (?, 'validating', ?, ?, ?, ?, ?, ?)"
        )
        values = (spec.endpoint, spec.input_file, spec.window, spec.metadata, spec.expires_s)
        self._db.execute(insert, (name, time.time(), *values))
        return self.job(name)

    def put(self, name: str, first: int, lines: Sequence[bytes], last: bool) -> int:
        """Store lines `[first, first + len(lines))`; return how many of the job are stored.

        Repeating it changes nothing. Lines that would leave a gap are not stored.
        """
        if not 1 <= len(name) <= MAX_NAME_CHARS:
            raise JobError("bad_job_name", f"a job's name has 1 to {MAX_NAME_CHARS} characters")
        with transaction(self._db):
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
            update = "UPDATE jobs SET total = ?, input_bytes = input_bytes + ? WHERE id = ?"
            self._db.execute(update, (total, sum(len(line) + 1 for line in added), job))
            if last and state == "validating":
                self._begin(job)
            return total

    def _open(self, name: str) -> tuple[int, str, int]:
        insert = "INSERT OR IGNORE INTO jobs (name, state, created_s) VALUES (?, 'validating', ?)"
        self._db.execute(insert, (name, time.time()))
        query = "SELECT id, state, total FROM jobs WHERE name = ?"
        job, state, total = self._db.execute(query, (name,)).fetchone()
        return job, state, total

    def _begin(self, job: int) -> None:
        """All lines are there: let the job run. A job without lines is over."""
        begin = "UPDATE jobs SET state = 'in_progress', started_s = ? WHERE id = ?"
        self._db.execute(begin, (time.time(), job))
        self._end_if_done(job)

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
            " AND seq > ? AND length(result) ORDER BY seq LIMIT ?"
        )
        return status, *page(self._db.execute(query, (name, after, PAGE_RESULTS)), after)

    def status(self, name: str) -> JobStatus:
        """Raise JobError if there is no such job."""
        row = self._db.execute(f"SELECT {STATUS} FROM jobs WHERE name = ?", (name,)).fetchone()
        if row is None:
            raise _no_job(name)
        return JobStatus(*row)

    def statuses(self) -> list[JobStatus]:
        """All jobs, newest first."""
        rows = self._db.execute(f"SELECT {STATUS} FROM jobs ORDER BY id DESC")
        return [JobStatus(*row) for row in rows]

    def job(self, name: str) -> Job:
        """Raise JobError if there is no such job."""
        query = f"SELECT {_JOB_COLUMNS} FROM jobs WHERE name = ?"
        row = self._db.execute(query, (name,)).fetchone()
        if row is None:
            raise _no_job(name)
        return Job(*row)

    def list_jobs(self, after: str | None, limit: int) -> list[Job]:
        """Jobs, newest first, that are older than job `after`."""
        before = self.job(after).id if after else 2**62
        query = f"SELECT {_JOB_COLUMNS} FROM jobs WHERE id < ? ORDER BY id DESC LIMIT ?"
        return [Job(*row) for row in self._db.execute(query, (before, limit))]

    def cancel(self, name: str) -> int:
        """Begin to stop a job, and return its id; what is done stays."""
        job = self.job(name).id
        update = (
            "UPDATE jobs SET state = 'cancelling', cancelling_s = ? WHERE id = ?"
            " AND state IN ('validating', 'in_progress')"
        )
        self._db.execute(update, (time.time(), job))
        return job

    # -- what runs them ----------------------------------------------------------------------------

    def end_cancelled(self, job: int | None = None) -> None:
        """Mark a cancelling job as cancelled, or all of them if `job` is None."""
        update = (
            "UPDATE jobs SET state = 'cancelled', ended_s = ?"
            " WHERE state = 'cancelling' AND id = coalesce(?, id)"
        )
        self._db.execute(update, (time.time(), job))

    def fail(self, name: str, code: str, message: str) -> None:
        """End a job that cannot begin."""
        problem = json.dumps({"code": code, "message": message, "line": None, "param": None})
        update = (
            "UPDATE jobs SET state = 'failed', ended_s = ?, problem = ?"
            " WHERE name = ? AND state = 'validating'"
        )
        self._db.execute(update, (time.time(), problem, name))

    def uploaded(self) -> list[Job]:
        """Jobs whose lines are still to be read from their file, oldest first."""
        query = (
            f"SELECT {_JOB_COLUMNS} FROM jobs WHERE state = 'validating'"
            " AND input_file IS NOT NULL ORDER BY id"
        )
        return [Job(*row) for row in self._db.execute(query)]

    def running(self) -> list[int]:
        """The jobs with lines to run, oldest first."""
        rows = self._db.execute("SELECT id FROM jobs WHERE state = 'in_progress' ORDER BY id")
        return [job for (job,) in rows]

    def pending(self, job: int, after: int, limit: int) -> list[Line]:
        """Lines after number `after` that have no result; none if the job does not run."""
        query = (
            "SELECT number, line, EXISTS (SELECT 1 FROM lines AS other WHERE other.job = lines.job"
            " AND other.custom_id = lines.custom_id AND other.number < lines.number),"
            " endpoint FROM lines JOIN jobs ON jobs.id = job"
            " WHERE job = ? AND number > ? AND seq IS NULL AND state IN ('in_progress',"
            " 'finalizing') ORDER BY number LIMIT ?"
        )
        rows = self._db.execute(query, (job, after, limit))
        return [Line(job, number, line, bool(again), url) for number, line, again, url in rows]

    def finish(self, outcomes: Iterable[Outcome]) -> None:
        """Store results in one transaction. A line that has a result keeps it."""
        with transaction(self._db):
            for outcome in outcomes:
                self._finish(outcome)

    def _finish(self, outcome: Outcome) -> None:
        store = (
            "UPDATE lines SET result = ?, ok = ?,"
            " seq = (SELECT completed + failed + 1 FROM jobs WHERE id = lines.job)"
            " WHERE job = ? AND number = ? AND seq IS NULL"
            " AND (SELECT state FROM jobs WHERE id = lines.job) IN ('in_progress', 'finalizing')"
        )
        ok, num_bytes = outcome.ok, len(outcome.result) + 1
        key = (outcome.job, outcome.number)
        if not self._db.execute(store, (outcome.result, ok, *key)).rowcount:
            return
        count = (
            "UPDATE jobs SET completed = completed + ?, failed = failed + ?,"
            " prompt_tokens = prompt_tokens + ?, output_tokens = output_tokens + ?,"
            " output_bytes = output_bytes + ?, error_bytes = error_bytes + ? WHERE id = ?"
        )
        tokens = (outcome.prompt_tokens, outcome.output_tokens)
        sizes = (ok * num_bytes, (not ok) * num_bytes)
        self._db.execute(count, (ok, not ok, *tokens, *sizes, outcome.job))
        self._end_if_done(outcome.job)

    def _end_if_done(self, job: int) -> None:
        """End a job if all its lines have results, which are its output files already."""
        end = (
            "UPDATE jobs SET ended_s = ?1, finalizing_s = coalesce(finalizing_s, ?1), state ="
            " CASE state WHEN 'finalizing' THEN 'expired' ELSE 'completed' END"
            " WHERE id = ?2 AND completed + failed = total"
        )
        self._db.execute(end, (time.time(), job))

    # -- time ------------------------------------------------------------------------------------

    def expire(self, now_s: float) -> list[int]:
        """Begin to end the jobs whose time is up; return all jobs that are ending."""
        update = (
            "UPDATE jobs SET state = 'finalizing', finalizing_s = ?1"
            " WHERE state = 'in_progress' AND expires_s < ?1"
        )
        self._db.execute(update, (now_s,))
        rows = self._db.execute("SELECT id FROM jobs WHERE state = 'finalizing'")
        return [job for (job,) in rows]

    def purge(self, before_s: float) -> bool:
        """Delete some of what ended or was left half sent before `before_s`.

        Return whether there may be more of it.
        """
        query = (
            "SELECT id FROM jobs WHERE coalesce(ended_s, created_s) < ?"
            " AND state NOT IN ('in_progress', 'finalizing', 'cancelling') LIMIT 1"
        )
        row = self._db.execute(query, (before_s,)).fetchone()
        if row is None:
            return False
        lines = "DELETE FROM lines WHERE rowid IN (SELECT rowid FROM lines WHERE job = ? LIMIT ?)"
        with transaction(self._db):
            if self._db.execute(lines, (*row, PURGE_LINES)).rowcount < PURGE_LINES:
                self._db.execute("DELETE FROM jobs WHERE id = ?", row)
        return True


def page(rows: Iterable[tuple[int, bytes]], after: int) -> tuple[list[bytes], int]:
    """Return as many of the numbered contents as fit a page, and the last one's number."""
    contents: list[bytes] = []
    num_bytes = 0
    for number, content in rows:
        num_bytes += len(content)
        if contents and num_bytes > PAGE_BYTES:
            break
        contents.append(content)
        after = number
    return contents, after


def _no_job(name: str) -> JobError:
    return JobError("job_not_found", f"there is no job {name}: see 'bros batch list'")
