"""Look after batch jobs while nobody asks: read uploaded ones in, end those whose time is up.

Both go on where they were when the process starts again: the store knows how far they are.
"""

from __future__ import annotations

import asyncio
import logging
import time

from bros.brosd.protocol.batch_lines import parts, read_lines
from bros.brosd.tokenizer.jobs import batch_line
from bros.brosd.tokenizer.jobs.errors import JobError, StoreError
from bros.brosd.tokenizer.jobs.job import Job
from bros.brosd.tokenizer.jobs.line_runner import BatchLineRunner
from bros.brosd.tokenizer.jobs.store import JobStore

log = logging.getLogger(__name__)

EXPIRE_EVERY_S = 1.0
PURGE_EVERY_S = 3600.0
RETRY_S = 5.0
EXPIRED_LINES = 500  # in one transaction


class JobHousekeeping:
    """Run by one task, which never ends by itself; a store that fails makes it wait."""

    def __init__(self, store: JobStore, runner: BatchLineRunner) -> None:
        self._store = store
        self._runner = runner

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._read_uploads())
            tasks.create_task(self._watch_time())

    # -- uploads ---------------------------------------------------------------------------------

    async def _read_uploads(self) -> None:
        while True:
            changed = self._store.changed
            try:
                for job in await self._store.uploaded_jobs():
                    await self._read(job)
            except StoreError as error:
                log.warning("event=upload_waits error=%r", str(error))
                await asyncio.sleep(RETRY_S)
            else:
                await changed.wait()

    async def _read(self, job: Job) -> None:
        """Store the lines of a job's file that are not stored yet, and let it begin."""
        try:
            with await self._store.open_upload(job.input_file or "") as file:
                lines = parts(read_lines(file, lambda reason: log.warning("%s", reason)))
                first, last = 0, False
                while not last:
                    part, last = await asyncio.to_thread(next, lines)
                    if last and not first and not part:
                        await self._fail(job, "empty_file", "the input file has no lines")
                    elif last or first + len(part) > job.total:
                        await self._store.put_lines(job.name, first, part, last)
                    first += len(part)
        except JobError as error:  # it was cancelled in the meantime
            log.info("event=upload_dropped job=%s reason=%r", job.name, str(error))
        except OSError as error:
            problem = error.strerror or str(error)
            await self._fail(job, "unreadable_file", f"the input file cannot be read: {problem}")

    async def _fail(self, job: Job, code: str, message: str) -> None:
        log.warning("event=job_failed job=%s code=%s", job.name, code)
        await self._store.fail_job(job.name, code, message)

    # -- time ------------------------------------------------------------------------------------

    async def _watch_time(self) -> None:
        purge_at_s = time.monotonic()
        while True:
            try:
                for job in await self._store.expire_jobs(time.time()):
                    await self._expire(job)
                if time.monotonic() >= purge_at_s:
                    purge_at_s += PURGE_EVERY_S
                    await self._store.purge()
            except (OSError, StoreError) as error:
                log.warning("event=expiry_waits error=%r", str(error))
                await asyncio.sleep(RETRY_S)
            await asyncio.sleep(EXPIRE_EVERY_S)

    async def _expire(self, job: int) -> None:
        """Store a result for each line that has none; it says that the time was up."""
        log.info("event=job_expired job=%d", job)
        await self._runner.abandon(job)
        while lines := await self._store.pending_lines(job, -1, EXPIRED_LINES):
            await self._store.finish_lines([batch_line.expired(line) for line in lines])
