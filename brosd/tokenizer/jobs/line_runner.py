"""Run the lines of batch jobs, oldest job first, at most `window` of them at a time."""

from __future__ import annotations

import asyncio
import logging

from bros.brosd.tokenizer.generation.live_requests import LiveRequests
from bros.brosd.tokenizer.jobs import batch_line
from bros.brosd.tokenizer.jobs.job import Line, Outcome
from bros.brosd.tokenizer.jobs.store import JobStore
from bros.brosd.tokenizer.openai.errors import OpenAIError
from bros.brosd.tokenizer.openai.service import OpenAIService

log = logging.getLogger(__name__)

MAX_FAILURES = 3  # failures of the server on one line, after which the line counts as the cause
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0


class BatchLineRunner:
    """Keeps up to `window` lines in flight. A line that is cancelled stays pending."""

    def __init__(
        self, store: JobStore, api: OpenAIService, live_requests: LiveRequests, window: int
    ) -> None:
        self._store = store
        self._api = api
        self._live_requests = live_requests
        self._window = window
        self._slots = asyncio.Semaphore(window)
        self._lines: dict[asyncio.Task[None], int] = {}  # in flight, with their jobs
        self._started: dict[int, int] = {}  # the last line started, by job
        self._cancelled: set[int] = set()

    async def run(self) -> None:
        """Run all jobs that there are and will be. Cancelling this cancels all lines."""
        try:
            while True:
                changed = self._store.changed
                if not await self._feed():
                    await changed.wait()
        finally:
            await _cancel(list(self._lines))

    async def cancel(self, name: str) -> None:
        """Stop a job; what is done stays. Raise JobError if there is no such job."""
        job = await self._store.begin_cancel(name)
        await self.abandon(job)
        await self._store.end_cancel(job)

    async def abandon(self, job: int) -> None:
        """Stop the lines of a job that the store does not run any more."""
        self._cancelled.add(job)
        await _cancel([task for task, of in self._lines.items() if of == job])

    async def _feed(self) -> bool:
        """Start pending lines of the oldest job that has any; return whether there were any."""
        jobs = await self._store.running_jobs()
        self._started = {job: self._started.get(job, -1) for job in jobs}
        for job in jobs:
            if page := await self._store.pending_lines(job, self._started[job], self._window):
                for line in page:
                    await self._slots.acquire()
                    self._start(line)
                return True
        return False

    def _start(self, line: Line) -> None:
        if line.job in self._cancelled:
            self._slots.release()
            return
        self._started[line.job] = line.number
        task = asyncio.create_task(self._run(line))
        self._lines[task] = line.job
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._lines[task]
        self._slots.release()
        if not task.cancelled() and (error := task.exception()):
            log.error("event=line_crashed", exc_info=error)

    async def _run(self, line: Line) -> None:
        await self._store.finish_line(await self._outcome(line))

    async def _outcome(self, line: Line) -> Outcome:
        """The result of a line. Wait for it while the server cannot answer."""
        try:
            request = batch_line.read(line)
        except OpenAIError as error:
            return batch_line.unreadable(line, error)
        body = bytes(request.body)
        failures = 0
        pause_s = FIRST_PAUSE_S
        while True:
            await self._live_requests.wait_open()
            try:
                answer = await self._api.handle_line(request.url, body)
            except OpenAIError as error:
                failures += error.status >= 500 and error.status != 503
                if not _is_passing(error) or failures == MAX_FAILURES:
                    return batch_line.failed(line, request.custom_id, error)
                log.warning("event=line_retried job=%d line=%d", line.job, line.number)
            else:
                return batch_line.answered(line, request.custom_id, answer)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def _is_passing(error: OpenAIError) -> bool:
    """Whether the same request may be answered later."""
    return error.status >= 500 or error.status == 429


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
