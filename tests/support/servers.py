"""The servers of a test run: who shares which, and when they end.

A test marked `server(SETTINGS)` shares its server with all others of the same settings. They run
one after another, in one process, and the server ends after the last of them.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import tempfile
from contextlib import suppress
from functools import partial
from itertools import chain
from pathlib import Path

import pytest

from bros.brosd.locks import running_pid
from harness import Server, wait_until

Settings = tuple[str, ...]


def share_server(metafunc: pytest.Metafunc) -> None:
    """Write the settings of a shared server into the test's name, which is all a scheduler sees."""
    mark = metafunc.definition.get_closest_marker("server")
    if mark and "server" in metafunc.fixturenames:
        name = f"server({' '.join(mark.args)})"
        metafunc.parametrize("server", [mark.args], indirect=True, ids=[name])


def shared_settings(item: pytest.Item | None) -> Settings | None:
    """Return the settings of the server that the test shares; None if it shares none."""
    if not isinstance(item, pytest.Function) or not hasattr(item, "callspec"):
        return None
    settings = item.callspec.params.get("server")
    return settings if isinstance(settings, tuple) else None


def group_of(nodeid: str) -> str:
    """Name the tests that run in one process: those of a shared server, or those of a file."""
    shared = re.search(r"server\(.*?\)", nodeid)
    return shared[0] if shared else nodeid.partition("::")[0]


def put_in_order(items: list[pytest.Item]) -> None:
    """Keep groups together, and put those with slow tests first, so that none ends last."""
    groups: dict[str, list[pytest.Item]] = {}
    for item in items:
        groups.setdefault(group_of(item.nodeid), []).append(item)

    def is_quick(group: list[pytest.Item]) -> bool:
        return not any(item.get_closest_marker("slow") for item in group)

    ordered = sorted(groups.values(), key=is_quick)
    items[:] = chain.from_iterable(ordered)


class Servers:
    """Starts servers, and in the end deletes what they leave."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._shared: dict[Settings, Server] = {}
        self._made: list[Server] = []

    def make(self, *settings: str, start: bool = True) -> Server:
        """Return a server that nobody else uses."""
        server = Server(Path(tempfile.mkdtemp(prefix="bros-")), self._cache, list(settings))
        self._made.append(server)
        if start:
            done = server.start()
            assert done.returncode == 0, done.stderr + server.log()
        return server

    def share(self, *settings: str) -> Server:
        """Return the server of these settings; start it if there is none."""
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
            wait_until(partial(has_ended, server))
            shutil.rmtree(server.folder)


def has_ended(server: Server) -> bool:
    return running_pid(server.runtime) is None


def end(server: Server) -> None:
    """Do what `brosd stop --now` does, without waiting."""
    pid = running_pid(server.runtime)
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGQUIT)
