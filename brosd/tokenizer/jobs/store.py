"""What a store of batch jobs and files can do, whatever keeps them: one interface for all of them.

No method blocks the event loop. Any method may raise StorageFailedError or DiskFullError.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import BinaryIO, Protocol

from bros.brosd.protocol.wire import JobStatus
from bros.brosd.tokenizer.jobs.job import File, Job, JobSpec, Line, Outcome


class IncomingFile(Protocol):
    """An upload on its way in. End it with `keep` or `discard`."""

    async def write(self, piece: bytes) -> None:
        """Append to the content."""

    async def keep(self, filename: str, purpose: str, expires_s: float | None) -> File:
        """Make the content durable, and return the file that clients can name from now on."""

    async def discard(self) -> None:
        """Forget the content."""


class JobStore(Protocol):
    """Jobs, their lines and results, and files.

    A line is durable when `put_lines` returns. A line gets one result, once and for all; the
    results of a job are numbered 1, 2, ... in the order in which they were stored.
    """

    @property
    def changed(self) -> asyncio.Event:
        """Set at the next change of any job. Take it before looking at jobs, then wait for it."""

    async def check_room(self, num_bytes: int = 0) -> None:
        """Raise DiskFullError if `num_bytes` more would take the space reserved for results."""

    async def close(self) -> None:
        """Store the results that are finished, then close."""

    # -- jobs, for clients -----------------------------------------------------------------------

    async def create_job(self, name: str, spec: JobSpec) -> Job:
        """Store a job whose lines will be read from its input file."""

    async def put_lines(self, name: str, first: int, lines: Sequence[bytes], last: bool) -> int:
        """Store lines `[first, first + len(lines))`; return how many of the job are stored.

        Repeating a call changes nothing. Lines that would leave a gap are not stored. Raise
        JobError if the job has other lines already.
        """

    async def page(self, name: str, after: int) -> tuple[JobStatus, list[bytes], int]:
        """Return results after number `after`, as many as fit a page, and the last one's number.

        Wait up to a second for the first of them. Raise JobError if there is no such job.
        """

    async def job(self, name: str) -> Job:
        """Raise JobError if there is no such job."""

    async def jobs(self, after: str | None, limit: int) -> list[Job]:
        """Jobs, newest first, that are older than job `after`."""

    async def status(self, name: str) -> JobStatus:
        """Raise JobError if there is no such job."""

    async def statuses(self) -> list[JobStatus]:
        """All jobs, newest first."""

    # -- jobs, for what runs them ----------------------------------------------------------------

    async def running_jobs(self) -> list[int]:
        """The ids of the jobs that have lines to run, oldest first."""

    async def pending_lines(self, job: int, after: int, limit: int) -> list[Line]:
        """Lines after number `after` that have no result; none if the job does not run."""

    async def finish_line(self, outcome: Outcome) -> None:
        """Store a result, however long the storage takes to be able to. A line keeps its first."""

    async def finish_lines(self, outcomes: Sequence[Outcome]) -> None:
        """Store results, all or none of them."""

    async def begin_cancel(self, name: str) -> int:
        """Give a job no more lines to run, and return its id. Raise JobError if there is none."""

    async def end_cancel(self, job: int) -> None:
        """Mark a job as cancelled: none of its lines runs any more."""

    async def uploaded_jobs(self) -> list[Job]:
        """Jobs whose lines are still to be read from their input file, oldest first."""

    async def fail_job(self, name: str, code: str, message: str) -> None:
        """End a job that cannot begin."""

    async def expire_jobs(self, now_s: float) -> list[int]:
        """Stop the jobs whose time is up; return the ids of all that still lack results."""

    async def purge(self) -> None:
        """Delete what ended longer ago than `batch.retention_s`."""

    # -- files -----------------------------------------------------------------------------------

    async def new_file(self) -> IncomingFile:
        """Begin an upload."""

    async def file(self, name: str) -> File:
        """Raise FileError if there is no such file."""

    async def files(
        self, after: str | None, limit: int, purpose: str | None, newest: bool
    ) -> list[File]:
        """Files in order of age that come after file `after`."""

    async def file_piece(self, file: File, after: int) -> tuple[bytes, int]:
        """A piece of the content and what to ask for next; begin with -1, end at no bytes."""

    async def delete_file(self, name: str) -> None:
        """Raise FileError if there is no such file, or a job needs it."""

    async def open_upload(self, name: str) -> BinaryIO:
        """The content of an upload; reading it blocks, so do it in a thread. Raise OSError."""
