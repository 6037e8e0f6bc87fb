"""Fixtures that run the real program: its processes, its sockets, its default model."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bros.workers.version import compiled_folder
from harness import MODEL, MakeServer, Server
from servers import Servers, end, put_in_order, share_server, shared_settings

_USER = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
CACHE = Path(os.environ.get("BROS_TEST_CACHE", _USER / "bros"))

SERVERS = pytest.StashKey[Servers]()

# `pytest -n 2` has more threads than cores: threads that wait at a barrier must not spin for long.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

# Tests and servers share compiled kernels. Numba reads this when it is imported.
os.environ["NUMBA_CACHE_DIR"] = str(compiled_folder(CACHE))

# A shell's background job starts with Ctrl-C ignored, and so would every process of the tests.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Without a device, Triton interprets its kernels. It reads this when they are defined.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(scope="session")
def cache_dir() -> Path:
    """Return the folder that keeps models and compiled kernels between runs."""
    return CACHE


@pytest.fixture(scope="session")
def model_dir(cache_dir: Path) -> Path:
    """Return the default model as a local Hugging Face folder."""
    command = [sys.executable, "-m", "bros.workers.models.fetch", MODEL, str(cache_dir)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Path(done.stdout.strip())


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """Return a scratch folder whose path is short enough for sockets."""
    folder = Path(tempfile.mkdtemp(prefix="bros-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def servers(cache_dir: Path, model_dir: Path, request: pytest.FixtureRequest) -> Iterator[Servers]:
    """Return all servers of this process."""
    request.session.stash[SERVERS] = servers = Servers(cache_dir)
    yield servers
    servers.close()


@pytest.fixture
def server(servers: Servers, request: pytest.FixtureRequest) -> Server:
    """Return the server that all tests with the same mark `server(SETTINGS)` share."""
    assert hasattr(request, "param"), "mark the test: @pytest.mark.server(SETTINGS)"
    return servers.share(*request.param)


@pytest.fixture(scope="module")
def make_server(servers: Servers) -> Iterator[MakeServer]:
    """Return a maker of servers that nobody shares; they end after the module's tests."""
    made: list[Server] = []

    def make(*settings: str, start: bool = True) -> Server:
        made.append(servers.make(*settings, start=start))
        return made[-1]

    yield make
    for server in made:
        end(server)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    share_server(metafunc)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Return the scheduler of `pytest -n`."""
    from scheduling import GroupScheduling

    return GroupScheduling(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    put_in_order(items)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(
    item: pytest.Item, nextitem: pytest.Item | None
) -> Generator[None, None, None]:
    """End a shared server as soon as no further test needs it."""
    try:
        return (yield)
    finally:
        servers, settings = item.session.stash.get(SERVERS, None), shared_settings(item)
        if servers and settings and settings != shared_settings(nextitem):
            servers.end_shared(settings)
