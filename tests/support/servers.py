"""The servers of a test run: who shares which, and when they end.

A test marked `server(SETTINGS)` shares its server with all others of the same settings. They run
one after another, in one process, and the server ends after the last of them.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest

from bros.brosd.locks import running_pid
from harness import Server, wait_until

Settings = tuple[str, ...]


def shared_settings(item: pytest.Item | None) -> Settings | None:
    """The settings of the server that the test shares; None if it shares none."""
    mark = item.get_closest_marker("server") if item else None
    return tuple(mark.args) if mark else None


def group_of(item: pytest.Item) -> str:
    """Name the tests that run in one process, one after another: those of a server, or a file."""
    settings = shared_settings(item)
    if settings is None:
        return f"{item.path.parent.name}-{item.path.stem}"
    return "-".join(("server", *settings))


def put_in_order(items: list[pytest.Item]) -> None:
    """Keep groups together, and start with those that take long: short ones fill up the end."""
    groups: dict[str, list[pytest.Item]] = {}
    for item in items:
        name = group_of(item)
        item.add_marker(pytest.mark.xdist_group(name))
        groups.setdefault(name, []).append(item)
    quick = [not any(item.get_closest_marker("slow") for item in g) for g in groups.values()]
    ordered = sorted(zip(quick, groups.values(), strict=True), key=lambda pair: pair[0])
    items[:] = [item for _, group in ordered for item in group]


class Servers:
    """Starts servers, and in the end deletes what they leave."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._shared: dict[Settings, Server] = {}
        self._made: list[Server] = []

    def make(self, *settings: str, start: bool = True) -> Server:
        """A server that nobody else uses."""
        server = Server(Path(tempfile.mkdtemp(prefix="bros-")), self._cache, list(settings))
        self._made.append(server)
        if start:
            done = server.start()
            assert done.returncode == 0, done.stderr + server.log()
        return server

    def share(self, *settings: str) -> Server:
        """The server of these settings; the first test that asks for it starts it."""
        if settings not in self._shared:
            self._shared[settings] = self.make(*settings)
        return self._shared[settings]

    def end_shared(self, settings: Settings) -> None:
        """Stop the server of these settings, if there is one."""
        if server := self._shared.pop(settings, None):
            done = server.stop()
            assert done.returncode == 0, done.stderr + server.log()

    def close(self) -> None:
        """End all servers, wait for their ends, and delete their folders."""
        for settings in list(self._shared):
            self.end_shared(settings)
        for server in self._made:
            end(server)
        for server in self._made:
            wait_until(lambda server=server: running_pid(server.runtime) is None)
            shutil.rmtree(server.folder)


def end(server: Server) -> None:
    """Do what `brosd stop --now` does, without waiting."""
    pid = running_pid(server.runtime)
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGQUIT)
