"""A daemon of a benchmark's own: scratch folders, a free port, and its `/metrics`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from bros.cli.bench.servers import Metrics, metrics_of, private_daemon


@dataclass(frozen=True)
class Daemon:
    """A running daemon."""

    url: str

    def metrics(self) -> Metrics:
        """Return the samples of `/metrics`, and raise as `metrics_of` does."""
        return metrics_of(self.url)


@contextmanager
def daemon(*settings: str) -> Iterator[Daemon]:
    """Start `brosd` with these settings, and stop it at the end, whatever happened."""
    with private_daemon(settings) as url:
        yield Daemon(url)
