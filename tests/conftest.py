"""Fixtures that run the real program: its processes, its sockets, its default model."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from bros.workers.version import compiled_folder
from harness import MODEL, MakeServer, Server

_USER = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
CACHE = Path(os.environ.get("BROS_TEST_CACHE", _USER / "bros"))

# Kernels that the tests compile serve their servers as well. Numba reads it when it is imported.
os.environ["NUMBA_CACHE_DIR"] = str(compiled_folder(CACHE))

# A shell's background job starts with Ctrl-C ignored, and so would every process of the tests.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Without a device, Triton's kernels are interpreted; it is decided where they are defined.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(scope="session")
def cache_dir() -> Path:
    """Where models and compiled kernels are kept between runs."""
    return CACHE


@pytest.fixture(scope="session")
def model_dir(cache_dir: Path) -> Path:
    """The default model as a local Hugging Face folder."""
    command = [sys.executable, "-m", "bros.workers.models.fetch", MODEL, str(cache_dir)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Path(done.stdout.strip())


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A scratch folder whose path leaves room for socket names."""
    folder = Path(tempfile.mkdtemp(prefix="bros-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def make_server(cache_dir: Path, model_dir: Path) -> Iterator[MakeServer]:
    """Makes servers that are stopped when the module's tests are done."""
    servers: list[Server] = []

    def make(*settings: str, start: bool = True) -> Server:
        folder = Path(tempfile.mkdtemp(prefix="bros-"))
        server = Server(folder, cache_dir, list(settings))
        servers.append(server)
        if start:
            done = server.start()
            assert done.returncode == 0, done.stderr + server.log()
        return server

    yield make
    for server in servers:
        server.stop("--now")
        shutil.rmtree(server.folder)
