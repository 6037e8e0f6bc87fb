"""Servers to measure: private daemons, one per policy, and servers that run already."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from bros.cli.bench.load import Iterations
from bros.cli.errors import InputError

BROSD = Path(sys.executable).parent / "brosd"

Metrics = dict[tuple[str, str], float]
"""Samples by name, and by class or statistic where they have one."""


@dataclass(frozen=True)
class Server:
    """A server to measure: a `url`, or the `settings` of a daemon to start."""

    name: str
    url: str | None = None
    settings: tuple[str, ...] = ()

    @contextmanager
    def running(self) -> Iterator[str]:
        """Yield the URL of the server, while it serves."""
        if self.url is not None:
            yield self.url
        else:
            with private_daemon(self.settings) as url:
                yield url


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def private_daemon(settings: Sequence[str]) -> Iterator[str]:
    """Start a daemon in scratch folders on a free port, yield its URL, and stop it at the end."""
    folder = Path(tempfile.mkdtemp(prefix="bros-"))
    port = free_port()
    environ = {
        **os.environ,
        "BROS_RUNTIME_DIR": str(folder / "run"),
        "BROS_STATE_DIR": str(folder / "state"),
        "BROS_SERVER_PORT": str(port),
    }
    words = [word for setting in settings for word in ("--set", setting)]

    def brosd(*arguments: str) -> int:
        command = [str(BROSD), *arguments]
        return subprocess.run(
            command, env=environ, stdout=subprocess.DEVNULL, check=False
        ).returncode

    try:
        if status := brosd("start", "--detach", *words):
            raise InputError(
                f"brosd could not be started (exit code {status}); see its message above"
            )
        yield f"http://127.0.0.1:{port}"
    finally:
        brosd("stop", "--now")
        shutil.rmtree(folder, ignore_errors=True)


def model_of(url: str) -> str:
    """Return the model that the server at `url` serves. Raise InputError if it serves none."""
    try:
        response = httpx.get(f"{url}/v1/models", timeout=10.0).raise_for_status()
        return str(response.json()["data"][0]["id"])
    except (httpx.HTTPError, ValueError, LookupError) as error:
        raise InputError(f"{url} does not answer as an OpenAI server: {error}") from None


def metrics_of(url: str) -> Metrics:
    """Return the samples of `/metrics`. Raise httpx.HTTPError or ValueError if there are none."""
    text = httpx.get(f"{url}/metrics", timeout=30.0).raise_for_status().text
    return {
        (sample.name, sample.labels.get("class", sample.labels.get("statistic", ""))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def iterations_of(url: str) -> Iterations | None:
    """Return what a BROS daemon reports about its iterations so far; None for any other server."""
    try:
        seen = metrics_of(url)
        return Iterations(
            scheduling_s=seen["bros_scheduling_seconds_total", ""]
            / max(1.0, seen["bros_iterations_total", ""]),
            prediction_error=seen["bros_prediction_error", "mean"],
            prediction_error_p95=seen["bros_prediction_error", "p95"],
        )
    except (httpx.HTTPError, ValueError, KeyError):
        return None
