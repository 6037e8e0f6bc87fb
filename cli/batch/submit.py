"""`bros submit`: store a batch file in the daemon, then follow the job."""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections.abc import Iterable
from contextlib import suppress

from bros.brosd.client.client import Client, ClientError
from bros.cli.batch.follow import follow, open_output
from bros.cli.batch.progress import Meter
from bros.cli.batch.prompts import SUFFIXES, PromptOptions, open_requests
from bros.cli.errors import INTERRUPTED, InputError
from bros.cli.render import count
from bros.cli.target import Target


def submit(
    target: Target, file: str, output: str | None, prompts: PromptOptions, *, detach: bool
) -> int:
    """Submit a file (`-`: standard input) and wait for its results, unless detached.

    Return the exit code.
    """
    if detach and output is not None:
        raise InputError("--detach writes no results: leave -o out, and use 'bros batch watch'")
    if not detach:
        output = output or default_output(file)
        _refuse_same(file, output)
    job = f"batch-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
    prompts.format_of(file)  # checks the options before anything is opened
    with (
        target.connect() as client,
        open_requests(file, prompts, lambda: target.model(client.status())) as lines,
        open_output(output) as sink,
    ):
        meter = Meter(new_job=True)
        total = _store(client, job, lines)
        if total is None:
            return INTERRUPTED
        print(f"{job}: {count(total, 'line')} stored", file=sys.stderr, flush=True)
        if not detach:
            return follow(client, target, job, output, sink, meter)
    print(job)
    watch = target.command("batch", "watch", job, "-o", default_output(file))
    print(f"follow it:  {watch}", file=sys.stderr)
    return 0


def default_output(file: str) -> str:
    """Return `some/batch.results.jsonl` for `some/batch.jsonl`, and `-` for standard input."""
    if file == "-":
        return "-"
    stem, suffix = os.path.splitext(file)
    return f"{stem if suffix in ('.jsonl', *SUFFIXES) else file}.results.jsonl"


def _refuse_same(file: str, output: str) -> None:
    if "-" in (file, output) or not os.path.exists(output) or not os.path.exists(file):
        return
    if os.path.samefile(file, output):
        raise InputError(f"{output} is the input: choose another file with -o")


def _store(client: Client, job: str, lines: Iterable[bytes]) -> int | None:
    """Send all lines and return their number; None if Ctrl-C came first, and then nothing runs."""
    try:
        return client.put_job(job, lines)
    except (InputError, OSError):  # only the beginning of the file is good
        _forget(client, job)
        raise
    except KeyboardInterrupt:
        _forget(client, job)
        print("interrupted: nothing was submitted", file=sys.stderr)
        return None


def _forget(client: Client, job: str) -> None:
    with suppress(ClientError):  # the job may not exist yet
        client.cancel_job(job)
