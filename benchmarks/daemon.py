"""A daemon of a benchmark's own: scratch folders, a free port, and what its `/metrics` say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
from prometheus_client.parser import text_string_to_metric_families

from bros.cli.bench.servers import private_daemon

Metrics = dict[tuple[str, str], float]


@dataclass(frozen=True)
class Daemon:
    """A running one."""

    url: str

    def metrics(self) -> Metrics:
        """Samples by name and class."""
        text = httpx.get(f"{self.url}/metrics", timeout=30.0).text
        return {
            (sample.name, sample.labels.get("class", "")): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }


@contextmanager
def daemon(*settings: str) -> Iterator[Daemon]:
    """Starts `brosd` with these settings; stops it at the end, whatever happened."""
    with private_daemon(settings) as url:
        yield Daemon(url)
