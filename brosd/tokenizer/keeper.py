"""The job store for the event loop: its one thread, commits in groups, and waiting for results."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

from bros.brosd.tokenizer.jobs import OPEN_STATES, JobStore, Line, Outcome
from bros.brosd.wire import JobStatus

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

FETCH_WAIT_S = 1.0
RETRY_S = 1.0


class Keeper:
    """`JobStore` without blocking. Made by `open`."""

    def __init__(self, store: JobStore, thread: ThreadPoolExecutor) -> None:
        self._store = store
        self._thread = thread
        self._unsaved: list[tuple[Outcome, asyncio.Future[None]]] = []
        self._saving: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()  # replaced whenever it is set

    @classmethod
    async def open(cls, path: Path) -> Keeper:
        """Open or make the file. StoreError if it cannot be used."""
        thread = ThreadPoolExecutor(1, thread_name_prefix="jobs")
        store = await asyncio.get_running_loop().run_in_executor(thread, JobStore, path)
        return cls(store, thread)

    async def close(self) -> None:
        """Store what is finished, then close the file."""
        if self._saving is not None:
            await asyncio.wait({self._saving}, timeout=2 * RETRY_S)
        await self._call(self._store.close)
        self._thread.shutdown()

    async def _call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, lambda: function(*args, **kwargs))

    # -- clients ---------------------------------------------------------------------------------

    async def put(self, job: str, first: int, lines: list[bytes], last: bool) -> int:
        received = await self._call(self._store.put, job, first, lines, last)
        self._notify()
        return received

    async def fetch(self, job: str, after: int) -> tuple[JobStatus, list[bytes], int]:
        """Results after number `after`; waits for the first one up to a second."""
        deadline_s = asyncio.get_running_loop().time() + FETCH_WAIT_S
        while True:
            changed = self._changed
            page = await self._call(self._store.fetch, job, after)
            status, results, _ = page
            if results or status.state not in OPEN_STATES:
                return page
            try:
                async with asyncio.timeout_at(deadline_s):
                    await changed.wait()
            except TimeoutError:
                return page

    async def cancel(self, job: str) -> tuple[int, JobStatus]:
        cancelled = await self._call(self._store.cancel, job)
        self._notify()
        return cancelled

    async def statuses(self) -> list[JobStatus]:
        return await self._call(self._store.statuses)

    # -- the runner ------------------------------------------------------------------------------

    @property
    def changed(self) -> asyncio.Event:
        """Set at the next change of any job. Take it before looking, then wait."""
        return self._changed

    async def running(self) -> list[int]:
        return await self._call(self._store.running)

    async def pending(self, job: int, after: int, limit: int) -> list[Line]:
        return await self._call(self._store.pending, job, after, limit)

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
                await self._call(self._store.finish, outcomes)
            except sqlite3.Error as error:  # a full disk, say: the results wait for better times
                log.error("event=results_not_stored results=%d error=%r", len(group), str(error))
                self._unsaved = group + self._unsaved
                await asyncio.sleep(RETRY_S)
                continue
            for _, saved in group:
                if not saved.done():
                    saved.set_result(None)
            self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
