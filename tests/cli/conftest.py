"""A fake tokenizer process to talk to, and `bros` as a real process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fake_tokenizer import DEADLINE_S, FakeTokenizer, lock
from terminal import Terminal


@pytest.fixture
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture
def tokenizer(runtime: Path) -> Iterator[FakeTokenizer]:
    fake = FakeTokenizer(runtime)
    with lock(runtime):
        fake.start()
        yield fake
        fake.stop()


@pytest.fixture
def environ(runtime: Path) -> dict[str, str]:
    # A size in the environment would override the size of the test's terminal.
    other = ("BROS_", "FORCE_COLOR", "COLUMNS", "LINES")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(other)}
    return {
        **kept,
        "BROS_RUNTIME_DIR": str(runtime),
        "PYTHONUNBUFFERED": "1",
        "XDG_STATE_HOME": str(runtime),
    }


@pytest.fixture
def bros(
    environ: dict[str, str], tmp_path: Path
) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """Run `bros ARGUMENTS` to its end, in an empty folder."""

    def run(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, "-m", "bros.cli.app", *arguments],
            input=stdin,
            capture_output=True,
            cwd=tmp_path,
            env=environ,
            timeout=DEADLINE_S,
            check=False,
        )

    return run


@pytest.fixture
def terminal(environ: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    """Run `bros ARGUMENTS` on a terminal; keywords go into its environment."""
    opened: list[Terminal] = []

    def open_(*arguments: str, size: tuple[int, int] = (80, 24), **extra: str) -> Terminal:
        command = [sys.executable, "-m", "bros.cli.app", *arguments]
        opened.append(Terminal(command, {**environ, **extra}, tmp_path, *size))
        return opened[-1]

    yield open_
    for each in opened:
        each.close()


@pytest.fixture
def start_bros(environ: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Start `bros ARGUMENTS` and leave it running."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "bros.cli.app", *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": tmp_path}
        process = subprocess.Popen(command, **{**pipes, "env": environ, **options})
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
