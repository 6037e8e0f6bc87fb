"""`bros batch`: list, follow and cancel the jobs that the daemon holds."""

from __future__ import annotations

from bros.cli.follow import OVER, follow, open_output
from bros.cli.progress import Meter
from bros.cli.render import show_jobs
from bros.cli.target import Target


def list_jobs(target: Target, *, json: bool) -> None:
    """All jobs, newest first."""
    with target.connect() as client:
        show_jobs(client.jobs(), json=json)


def watch(target: Target, job: str, output: str | None) -> int:
    """Follow a job from its first result on, whoever submitted it."""
    with target.connect() as client:
        client.fetch(job)  # a job that is not there must not cost the output file its content
        with open_output(output) as sink:
            return follow(client, target, job, output, sink, Meter(new_job=False))


def cancel(target: Target, job: str) -> None:
    """Stop a job and say how far it was."""
    with target.connect() as client:
        status = client.cancel_job(job)
    done = status.completed + status.failed
    state = status.state if status.state in OVER else f"still {status.state}"
    print(f"{job} is {state}: {done} of {status.total} lines are done")
