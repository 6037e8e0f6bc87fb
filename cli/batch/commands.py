"""`bros batch`: list, follow and cancel the jobs that the daemon holds."""

from __future__ import annotations

from bros.cli.batch.follow import follow, open_output
from bros.cli.batch.progress import Meter
from bros.cli.render import show_jobs
from bros.cli.target import Target


def list_jobs(target: Target, *, json: bool) -> None:
    """Print all jobs, newest first."""
    with target.connect() as client:
        show_jobs(client.jobs(), json=json)


def watch(target: Target, job: str, output: str | None) -> int:
    """Follow a job from its first result on, whoever submitted it. Return the exit code."""
    with target.connect() as client:
        client.fetch(job)  # an unknown job must not empty the output file
        with open_output(output) as sink:
            return follow(client, target, job, output, sink, Meter(new_job=False))


def show(target: Target, job: str, *, json: bool) -> None:
    """Print one job and its progress."""
    with target.connect() as client:
        show_jobs([client.fetch(job).status], json=json)


def results(target: Target, job: str, output: str | None) -> None:
    """Write the results that exist so far, without waiting for more."""
    with target.connect() as client:
        page = client.fetch(job)
        with open_output(output or "-") as sink:
            while page.results and sink is not None:
                sink.writelines(line + b"\n" for line in page.results)
                page = client.fetch(job, page.next)


def cancel(target: Target, job: str) -> None:
    """Stop a job and print how many of its lines are done."""
    with target.connect() as client:
        status = client.cancel_job(job)
    done = status.completed + status.failed
    state = status.state if status.is_over else f"still {status.state}"
    print(f"{job} is {state}: {done} of {status.total} lines are done")
