"""A daemon of a benchmark's own: scratch folders, a free port, and what its `/metrics` say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from bros.cli.bench.servers import Metrics, metrics_of, private_daemon


@dataclass(frozen=True)
class Daemon:
    """A running one."""

    url: str

    def metrics(self) -> Metrics:
        """As `metrics_of`."""
        return metrics_of(self.url)


@contextmanager
def daemon(*settings: str) -> Iterator[Daemon]:
    """Starts `brosd` with these settings; stops it at the end, whatever happened."""
    with private_daemon(settings) as url:
        yield Daemon(url)
