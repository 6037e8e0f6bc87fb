"""Progress of a batch job on standard error: a live bar on a terminal, else a line at times."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bros.brosd.client.client import JobStatus
from bros.cli.render import duration

WINDOW_S = 10.0  # tokens/s is the mean over this time
LINE_EVERY_S = 5.0


class _Sample(NamedTuple):
    at_s: float
    done: int
    tokens: int


class Meter:
    """Speed and time left, from a job's statuses since this command began to watch it."""

    def __init__(self, new_job: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._new_job = new_job
        self._samples: deque[_Sample] = deque()
        self._first = _Sample(clock(), 0, 0) if new_job else None
        self._last = self._first

    def add(self, status: JobStatus) -> None:
        sample = _Sample(self._clock(), status.completed + status.failed, status.output_tokens)
        self._first = self._first or sample
        self._last = sample
        self._samples.append(sample)
        while sample.at_s - self._samples[0].at_s > WINDOW_S:
            self._samples.popleft()

    @property
    def after_s(self) -> float | None:
        """Time since the job was submitted; None if that was before this command."""
        return self._clock() - self._first.at_s if self._new_job and self._first else None

    @property
    def elapsed_s(self) -> float:
        return self._last.at_s - self._first.at_s if self._first and self._last else 0.0

    def mean_tokens_per_s(self) -> float | None:
        """Mean since this command began to watch; None if there was nothing to measure."""
        return _tokens_per_s(self._first, self._last)

    def tokens_per_s(self) -> float | None:
        """Mean over the last `WINDOW_S`; None if there was nothing to measure."""
        oldest = self._samples[0] if len(self._samples) > 1 else self._first
        return _tokens_per_s(oldest, self._last)

    def left_s(self, total: int) -> float | None:
        """Return the time until all lines are done at the mean speed; None while none is done."""
        if self._first is None or self._last is None or self._last.done == self._first.done:
            return None
        line_s = self.elapsed_s / (self._last.done - self._first.done)
        return line_s * (total - self._last.done)


def _tokens_per_s(first: _Sample | None, last: _Sample | None) -> float | None:
    if first is None or last is None or last.at_s <= first.at_s or last.tokens == first.tokens:
        return None
    return (last.tokens - first.tokens) / (last.at_s - first.at_s)


def note(status: JobStatus, meter: Meter) -> str:
    """Return a note such as `2 failed, 118 tokens/s, 0:40 left`."""
    parts = [f"{status.failed} failed"]
    if (rate := meter.tokens_per_s()) is not None:
        parts.append(f"{rate:.0f} tokens/s")
    if status.total > status.completed + status.failed:
        left_s = meter.left_s(status.total)
        parts.append("time left unknown" if left_s is None else f"{duration(left_s)} left")
    return ", ".join(parts)


class Board(NamedTuple):
    """Two functions to call while a job is watched: with each status, and with a text to show."""

    update: Callable[[JobStatus], None]
    say: Callable[[str], None]


@contextmanager
def progress(meter: Meter, *, live: bool) -> Iterator[Board]:
    """Open the board of a job: a bar that stays below the texts, or plain lines."""
    console = Console(stderr=True, highlight=False)

    def say(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    if not live or not console.is_terminal:
        yield Board(_plain(console, meter), say)
        return
    columns = (
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, refresh_per_second=4, transient=True) as bar:
        yield Board(_live(bar, meter), say)


def _live(bar: Progress, meter: Meter) -> Callable[[JobStatus], None]:
    task = bar.add_task("", total=None, note="")

    def update(status: JobStatus) -> None:
        meter.add(status)
        done = status.completed + status.failed
        bar.update(task, completed=done, total=status.total, note=note(status, meter))

    return update


def _plain(console: Console, meter: Meter) -> Callable[[JobStatus], None]:
    printed_s = time.monotonic()

    def update(status: JobStatus) -> None:
        nonlocal printed_s
        meter.add(status)
        if time.monotonic() - printed_s >= LINE_EVERY_S:
            printed_s = time.monotonic()
            done = status.completed + status.failed
            console.print(f"{done}/{status.total} done, {note(status, meter)}", soft_wrap=True)

    return update
