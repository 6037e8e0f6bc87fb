"""A daemon of a benchmark's own: scratch folders, a free port, and what its `/metrics` say."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

BROSD = Path(sys.executable).parent / "brosd"
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
    folder = Path(tempfile.mkdtemp(prefix="bros-"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environ = {
        **os.environ,
        "BROS_RUNTIME_DIR": str(folder / "run"),
        "BROS_STATE_DIR": str(folder / "state"),
        "BROS_SERVER_PORT": str(port),
    }
    words = [word for setting in settings for word in ("--set", setting)]
    try:
        subprocess.run([BROSD, "start", "--detach", *words], env=environ, check=True)
        yield Daemon(f"http://127.0.0.1:{port}")
    finally:
        subprocess.run([BROSD, "stop", "--now"], env=environ, check=False)
        shutil.rmtree(folder, ignore_errors=True)
