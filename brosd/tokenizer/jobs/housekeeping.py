"""Looks after batch jobs while nobody asks: reads uploaded ones in, ends those whose time is up.

Both go on where they were when the process starts again: the store knows how far they are.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time

from bros.brosd.protocol.batch_lines import parts, read_lines
from bros.brosd.tokenizer.jobs import batch_line
from bros.brosd.tokenizer.jobs.async_store import AsyncJobStore, DiskFullError
from bros.brosd.tokenizer.jobs.job import Job, JobError
from bros.brosd.tokenizer.jobs.line_runner import BatchLineRunner

log = logging.getLogger(__name__)

EXPIRE_EVERY_S = 1.0
PURGE_EVERY_S = 3600.0
RETRY_S = 5.0
EXPIRED_LINES = 500  # in one transaction


class JobHousekeeping:
    """Never ends by itself; a disk that is full makes it wait."""

    def __init__(self, keeper: AsyncJobStore, runner: BatchLineRunner) -> None:
        self._keeper = keeper
        self._runner = runner

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._read_uploads())
            tasks.create_task(self._watch_time())

    # -- uploads ---------------------------------------------------------------------------------

    async def _read_uploads(self) -> None:
        while True:
            changed = self._keeper.changed
            try:
                for job in await self._keeper.call(self._keeper.jobs.uploaded):
                    await self._read(job)
            except (sqlite3.Error, DiskFullError) as error:
                log.warning("event=upload_waits error=%r", str(error))
                await asyncio.sleep(RETRY_S)
            else:
                await changed.wait()

    async def _read(self, job: Job) -> None:
        """Store the lines of a job's file that are not stored yet, and let it begin."""
        path = self._keeper.files.path(job.input_file or "")
        try:
            with path.open("rb") as file:
                lines = parts(read_lines(file, lambda reason: log.warning("%s", reason)))
                first, last = 0, False
                while not last:
                    part, last = await asyncio.to_thread(next, lines)
                    if last and not first and not part:
                        await self._fail(job, "empty_file", "the input file has no lines")
                    elif last or first + len(part) > job.total:
                        await self._keeper.put(job.name, first, part, last)
                    first += len(part)
        except JobError as error:  # it was cancelled meanwhile
            log.info("event=upload_dropped job=%s reason=%r", job.name, str(error))
        except OSError as error:
            problem = error.strerror or str(error)
            await self._fail(job, "unreadable_file", f"the input file cannot be read: {problem}")

    async def _fail(self, job: Job, code: str, message: str) -> None:
        log.warning("event=job_failed job=%s code=%s", job.name, code)
        await self._keeper.call(self._keeper.jobs.fail, job.name, code, message)
        self._keeper.notify()

    # -- time ------------------------------------------------------------------------------------

    async def _watch_time(self) -> None:
        purge_at_s = time.monotonic()
        while True:
            try:
                for job in await self._keeper.call(self._keeper.jobs.expire, time.time()):
                    await self._expire(job)
                if time.monotonic() >= purge_at_s:
                    purge_at_s += PURGE_EVERY_S
                    await self._keeper.purge()
            except (OSError, sqlite3.Error, DiskFullError) as error:
                log.warning("event=expiry_waits error=%r", str(error))
                await asyncio.sleep(RETRY_S)
            await asyncio.sleep(EXPIRE_EVERY_S)

    async def _expire(self, job: int) -> None:
        """Give each line that has none a result that says so."""
        log.info("event=job_expired job=%d", job)
        await self._runner.abandon(job)
        while lines := await self._keeper.pending(job, -1, EXPIRED_LINES):
            outcomes = [batch_line.expired(line) for line in lines]
            await self._keeper.call(self._keeper.jobs.finish, outcomes)
            self._keeper.notify()
