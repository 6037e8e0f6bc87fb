"""Follow a batch job: write its results as they come, show its progress, let Ctrl-C leave it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from bros.brosd.client.client import Client, ClientError, JobPage, JobStatus
from bros.cli.batch.progress import Board, Meter, progress
from bros.cli.batch.results import ResultSummary, show_table
from bros.cli.errors import FAILED_LINES, INTERRUPTED
from bros.cli.render import count
from bros.cli.target import Target


@contextmanager
def open_output(output: str | None) -> Iterator[BinaryIO | None]:
    """Open the output: a file, which is replaced, standard output for `-`, nothing for None."""
    if output is None:
        yield None
    elif output == "-":
        yield sys.stdout.buffer
    else:
        with open(output, "wb") as file:
            yield file


def follow(
    client: Client,
    target: Target,
    job: str,
    output: str | None,
    sink: BinaryIO | None,
    meter: Meter,
) -> int:
    """Watch a job to its end and return the exit code. If this ends early, the job goes on."""
    seen: list[JobStatus] = []
    tally = ResultSummary()
    shared = output == "-" and sys.stdout.isatty()  # the results would break up a bar
    try:
        with progress(meter, live=not shared) as board:
            for page in _pages(client, job, sink):
                seen[:] = [page.status]
                _show(page, meter, tally, board)
    except KeyboardInterrupt:
        _say_how_to_resume(target, job, output, seen)
        return INTERRUPTED
    except (ClientError, OSError):
        _say_how_to_resume(target, job, output, seen)
        raise
    show_table(tally)
    return _summary(seen[0], meter, output)


def _show(page: JobPage, meter: Meter, tally: ResultSummary, board: Board) -> None:
    after_s = meter.after_s
    for line in page.results:
        if complaint := tally.add(line, after_s):
            board.say(complaint)
    board.update(page.status)


def _pages(client: Client, job: str, sink: BinaryIO | None) -> Iterator[JobPage]:
    """Yield each page of results after it has been written to `sink`."""
    after = 0
    while True:
        page = client.fetch(job, after)
        after = page.next
        if sink is not None:
            sink.writelines(line + b"\n" for line in page.results)
            sink.flush()
        yield page
        if page.status.is_over and not page.results:
            return


def _say_how_to_resume(target: Target, job: str, output: str | None, seen: list[JobStatus]) -> None:
    done = "".join(f"{s.completed + s.failed} of {s.total} lines done; " for s in seen)
    where = [] if output is None else ["-o", output]
    _say(f"{done}{job} goes on in the daemon")
    _say(f"  follow it again:  {target.command('batch', 'watch', job, *where)}")
    _say(f"  stop it:          {target.command('batch', 'cancel', job)}")


def _summary(status: JobStatus, meter: Meter, output: str | None) -> int:
    done = status.completed + status.failed
    rate = meter.mean_tokens_per_s()
    speed = "" if rate is None else f" in {meter.elapsed_s:.1f} s ({rate:.1f} output tokens/s)"
    _say(f"{done} of {status.total} lines done, {status.failed} failed{speed}")
    if output not in (None, "-"):
        _say(f"results: {output}")
    if done < status.total:
        missing = count(status.total - done, "line")
        _say(f"error: {status.job} is {status.state}: {missing} without result")
        return 1
    if status.failed:
        _say("the reason is in the result of each failed line")
        return FAILED_LINES
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
