"""The SQLite store for the event loop: its one thread, commits in groups, waiting for results."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, ParamSpec, TypeVar

from bros.brosd.config import BatchConfig
from bros.brosd.config.folders import write_error
from bros.brosd.protocol.wire import JobStatus
from bros.brosd.tokenizer.jobs.errors import (
    DiskFullError,
    StorageFailedError,
    StoreError,
    UnusableStoreError,
)
from bros.brosd.tokenizer.jobs.job import OPEN_STATES, File, Job, JobSpec, Line, Outcome
from bros.brosd.tokenizer.jobs.sqlite.database import open_database
from bros.brosd.tokenizer.jobs.sqlite.files import SqliteFiles
from bros.brosd.tokenizer.jobs.sqlite.jobs import SqliteJobs

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

PAGE_WAIT_S = 1.0
RETRY_S = 1.0
NO_ROOM = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)


class SqliteStore:
    """A `JobStore` of one state folder. Made by `open`."""

    def __init__(self, folder: Path, config: BatchConfig, thread: ThreadPoolExecutor) -> None:
        self._folder = folder
        self._config = config
        self._thread = thread
        self._db = open_database(folder / "jobs.sqlite3")
        self._jobs = SqliteJobs(self._db)
        self._files = SqliteFiles(self._db, folder / "files")
        self._jobs.end_cancelled()
        self._unsaved: list[tuple[Outcome, asyncio.Future[None]]] = []
        self._saving: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()  # replaced whenever it is set

    @classmethod
    async def open(cls, folder: Path, config: BatchConfig) -> SqliteStore:
        """Open or make the files. Raise UnusableStoreError."""
        thread = ThreadPoolExecutor(1, thread_name_prefix="jobs")
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(thread, cls, folder, config, thread)
        except OSError as error:
            raise UnusableStoreError(write_error(folder, "state_dir", error)) from None
        except sqlite3.Error as error:
            problem = f"batch jobs in {folder} cannot be used: {error}"
            raise UnusableStoreError(problem) from None

    async def close(self) -> None:
        if self._saving is not None:
            await asyncio.wait({self._saving}, timeout=2 * RETRY_S)
        await self._call(self._db.close)
        self._thread.shutdown()

    async def _call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function in the thread of the database."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, lambda: function(*args, **kwargs))
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
                raise DiskFullError.of(self._folder) from error
            raise StorageFailedError(str(error)) from error

    async def check_room(self, num_bytes: int = 0) -> None:
        disk = os.statvfs(self._folder)
        if disk.f_bavail * disk.f_frsize - num_bytes < self._config.min_free_bytes:
            raise DiskFullError.of(self._folder)

    @property
    def changed(self) -> asyncio.Event:
        return self._changed

    def _notify(self) -> None:
        """Tell all who wait that some job has changed."""
        self._changed.set()
        self._changed = asyncio.Event()

    # -- jobs, for clients -----------------------------------------------------------------------

    async def create_job(self, name: str, spec: JobSpec) -> Job:
        job = await self._call(self._jobs.create, name, spec)
        self._notify()
        return job

    async def put_lines(self, name: str, first: int, lines: Sequence[bytes], last: bool) -> int:
        await self.check_room(sum(map(len, lines)))
        received = await self._call(self._jobs.put, name, first, lines, last)
        self._notify()
        return received

    async def page(self, name: str, after: int) -> tuple[JobStatus, list[bytes], int]:
        deadline_s = asyncio.get_running_loop().time() + PAGE_WAIT_S
        while True:
            changed = self._changed
            page = await self._call(self._jobs.fetch, name, after)
            status, results, _ = page
            if results or status.state not in OPEN_STATES:
                return page
            try:
                async with asyncio.timeout_at(deadline_s):
                    await changed.wait()
            except TimeoutError:
                return page

    async def job(self, name: str) -> Job:
        return await self._call(self._jobs.job, name)

    async def jobs(self, after: str | None, limit: int) -> list[Job]:
        return await self._call(self._jobs.list_jobs, after, limit)

    async def status(self, name: str) -> JobStatus:
        return await self._call(self._jobs.status, name)

    async def statuses(self) -> list[JobStatus]:
        return await self._call(self._jobs.statuses)

    # -- jobs, for what runs them ----------------------------------------------------------------

    async def running_jobs(self) -> list[int]:
        return await self._call(self._jobs.running)

    async def pending_lines(self, job: int, after: int, limit: int) -> list[Line]:
        return await self._call(self._jobs.pending, job, after, limit)

    async def finish_line(self, outcome: Outcome) -> None:
        """Results that come while others are being stored share the next commit."""
        saved = asyncio.get_running_loop().create_future()
        self._unsaved.append((outcome, saved))
        if self._saving is None or self._saving.done():
            self._saving = asyncio.create_task(self._save())
        await saved

    async def _save(self) -> None:
        while self._unsaved:
            group, self._unsaved = self._unsaved, []
            try:
                await self.finish_lines([outcome for outcome, _ in group])
            except StoreError as error:  # the results wait for better times
                log.error("event=results_not_stored results=%d error=%r", len(group), str(error))
                self._unsaved = group + self._unsaved
                await asyncio.sleep(RETRY_S)
                continue
            for _, saved in group:
                if not saved.done():
                    saved.set_result(None)

    async def finish_lines(self, outcomes: Sequence[Outcome]) -> None:
        await self._call(self._jobs.finish, outcomes)
        self._notify()

    async def begin_cancel(self, name: str) -> int:
        return await self._call(self._jobs.cancel, name)

    async def end_cancel(self, job: int) -> None:
        await self._call(self._jobs.end_cancelled, job)
        self._notify()

    async def uploaded_jobs(self) -> list[Job]:
        return await self._call(self._jobs.uploaded)

    async def fail_job(self, name: str, code: str, message: str) -> None:
        await self._call(self._jobs.fail, name, code, message)
        self._notify()

    async def expire_jobs(self, now_s: float) -> list[int]:
        return await self._call(self._jobs.expire, now_s)

    async def purge(self) -> None:
        now_s = time.time()
        before_s = now_s - self._config.retention_s
        await self._call(self._files.purge, now_s, before_s)
        while await self._call(self._jobs.purge, before_s):
            pass

    # -- files -----------------------------------------------------------------------------------

    async def new_file(self) -> IncomingSqliteFile:
        try:
            name, content = await self._call(self._files.create)
        except OSError as error:
            raise _explain(error) from error
        return IncomingSqliteFile(self, name, content)

    async def keep_file(
        self, name: str, filename: str, purpose: str, expires_s: float | None
    ) -> File:
        """Make an upload durable and known; its content is written and closed."""
        return await self._call(self._files.keep, name, filename, purpose, expires_s)

    async def discard_file(self, name: str) -> None:
        """Delete an upload that will not be kept."""
        self._files.discard(name)

    async def file(self, name: str) -> File:
        return await self._call(self._files.get, name)

    async def files(
        self, after: str | None, limit: int, purpose: str | None, newest: bool
    ) -> list[File]:
        return await self._call(self._files.list_files, after, limit, purpose, newest)

    async def file_piece(self, file: File, after: int) -> tuple[bytes, int]:
        return await self._call(self._files.content, file, after)

    async def delete_file(self, name: str) -> None:
        await self._call(self._files.delete, name)

    async def open_upload(self, name: str) -> BinaryIO:
        return await asyncio.to_thread(self._files.path(name).open, "rb")


class IncomingSqliteFile:
    """An `IncomingFile` in the folder of a store. Writing goes on beside the database's thread."""

    def __init__(self, store: SqliteStore, name: str, content: BinaryIO) -> None:
        self._store = store
        self._name = name
        self._content = content

    async def write(self, piece: bytes) -> None:
        try:
            await asyncio.to_thread(self._content.write, piece)
        except OSError as error:
            raise _explain(error) from error

    async def keep(self, filename: str, purpose: str, expires_s: float | None) -> File:
        try:
            await asyncio.to_thread(self._content.close)
            return await self._store.keep_file(self._name, filename, purpose, expires_s)
        except OSError as error:
            raise _explain(error) from error

    async def discard(self) -> None:
        with suppress(OSError):  # what was not written yet does not fit
            self._content.close()
        await self._store.discard_file(self._name)


def _explain(error: OSError) -> StoreError:
    problem = error.strerror or str(error)
    if error.errno in NO_ROOM:
        return DiskFullError(f"The file cannot be stored: {problem}")
    return StorageFailedError(problem)
