"""Words that the shell completes: names of jobs and models. Nothing here may fail or be slow."""

from __future__ import annotations

from contextlib import suppress

from bros.cli.errors import InputError
from bros.cli.target import Target


def jobs(incomplete: str) -> list[str]:
    """Return the names of batch jobs, if a daemon runs in the default folders."""
    from bros.brosd.client.client import ClientError

    with suppress(ClientError, OSError, ValueError), Target().connect() as client:
        return [job.job for job in client.jobs() if job.job.startswith(incomplete)]
    return []


def models(incomplete: str) -> list[str]:
    """Return the names of the models on this machine."""
    from bros.cli.model.store import local_models

    with suppress(InputError, OSError, ValueError):
        return [m.name for m in local_models(Target()) if m.name.startswith(incomplete)]
    return []
