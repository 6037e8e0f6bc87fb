"""The job store for the event loop: its one thread, commits in groups, and waiting for results."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

from bros.brosd.config import BatchConfig
from bros.brosd.protocol.wire import JobStatus
from bros.brosd.tokenizer.jobs.database import StoreError, open_database
from bros.brosd.tokenizer.jobs.files import FileStore
from bros.brosd.tokenizer.jobs.job import OPEN_STATES, JobError, Line, Outcome
from bros.brosd.tokenizer.jobs.store import JobStore

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

FETCH_WAIT_S = 1.0
RETRY_S = 1.0


class DiskFullError(Exception):
    """There is no room for more jobs; the text says what to do."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            f"the disk of {folder} is full: free some space; nothing was stored of this, and "
            "nothing that was accepted before is lost"
        )


class AsyncJobStore:
    """`JobStore` and `FileStore` without blocking. Made by `open`."""

    def __init__(self, folder: Path, config: BatchConfig, thread: ThreadPoolExecutor) -> None:
        self._folder = folder
        self._config = config
        self._thread = thread
        self._db = open_database(folder / "jobs.sqlite3")
        self.jobs = JobStore(self._db)
        self.files = FileStore(self._db, folder / "files")
        self.jobs.end_cancelled()
        self._unsaved: list[tuple[Outcome, asyncio.Future[None]]] = []
        self._saving: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()  # replaced whenever it is set

    @classmethod
    async def open(cls, folder: Path, config: BatchConfig) -> AsyncJobStore:
        """Open or make the files. StoreError if they cannot be used."""
        thread = ThreadPoolExecutor(1, thread_name_prefix="jobs")
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(thread, cls, folder, config, thread)
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"batch jobs in {folder} cannot be used: {error}") from None

    async def close(self) -> None:
        """Store what is finished, then close the file."""
        if self._saving is not None:
            await asyncio.wait({self._saving}, timeout=2 * RETRY_S)
        await self.call(self._db.close)
        self._thread.shutdown()

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a method of `jobs` or `files` in their thread. DiskFullError if the disk is."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, lambda: function(*args, **kwargs))
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
                raise DiskFullError(self._folder) from error
            raise

    def check_room(self, num_bytes: int = 0) -> None:
        """DiskFullError if so much more would take the space that results are kept."""
        disk = os.statvfs(self._folder)
        if disk.f_bavail * disk.f_frsize - num_bytes < self._config.min_free_bytes:
            raise DiskFullError(self._folder)

    # -- clients ---------------------------------------------------------------------------------

    async def put(self, job: str, first: int, lines: list[bytes], last: bool) -> int:
        self.check_room(sum(map(len, lines)))
        received = await self.call(self.jobs.put, job, first, lines, last)
        self.notify()
        return received

    async def fetch(self, job: str, after: int) -> tuple[JobStatus, list[bytes], int]:
        """Results after number `after`; waits for the first one up to a second."""
        deadline_s = asyncio.get_running_loop().time() + FETCH_WAIT_S
        while True:
            changed = self._changed
            page = await self.call(self.jobs.fetch, job, after)
            status, results, _ = page
            if results or status.state not in OPEN_STATES:
                return page
            try:
                async with asyncio.timeout_at(deadline_s):
                    await changed.wait()
            except TimeoutError:
                return page

    # -- the runner ------------------------------------------------------------------------------

    @property
    def changed(self) -> asyncio.Event:
        """Set at the next change of any job. Take it before looking, then wait."""
        return self._changed

    async def pending(self, job: int, after: int, limit: int) -> list[Line]:
        return await self.call(self.jobs.pending, job, after, limit)

    async def finish(self, outcome: Outcome) -> None:
        """Store a result; those that come meanwhile share the next commit."""
        saved = asyncio.get_running_loop().create_future()
        self._unsaved.append((outcome, saved))
        if self._saving is None or self._saving.done():
            self._saving = asyncio.create_task(self._save())
        await saved

    async def _save(self) -> None:
        while self._unsaved:
            group, self._unsaved = self._unsaved, []
            outcomes = [outcome for outcome, _ in group]
            try:
                await self.call(self.jobs.finish, outcomes)
            except (sqlite3.Error, DiskFullError) as error:  # the results wait for better times
                log.error("event=results_not_stored results=%d error=%r", len(group), str(error))
                self._unsaved = group + self._unsaved
                await asyncio.sleep(RETRY_S)
                continue
            for _, saved in group:
                if not saved.done():
                    saved.set_result(None)
            self.notify()

    def notify(self) -> None:
        """Some job has changed."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def purge(self) -> None:
        """Delete what is older than `batch.retention_s`."""
        now_s = time.time()
        before_s = now_s - self._config.retention_s
        await self.call(self.files.purge, now_s, before_s)
        while await self.call(self.jobs.purge, before_s):
            pass


__all__ = ["AsyncJobStore", "DiskFullError", "JobError"]
