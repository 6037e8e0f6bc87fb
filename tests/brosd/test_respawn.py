"""A detached daemon is started again when it ends unexpectedly, but not without end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bros.brosd.locks import respawner_pid, running_pid
from bros.brosd.respawn import MAX_RESTARTS, PAUSE_S, WINDOW_S, Backoff
from harness import wait_until

# A daemon that says it is ready, leaves its process id, and lives until it is told to end.
DAEMON = """
import os, pathlib, signal, sys, time
from bros.brosd.systemd import notify, num_restarts
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
notify("READY=1")
pathlib.Path(sys.argv[1], f"life.{num_restarts()}").write_text(str(os.getpid()))
time.sleep(600)
"""
FAILS = """
from bros.brosd.systemd import notify
notify("STATUS=failed: no luck")
raise SystemExit(1)
"""

Start = Callable[[str], tuple[subprocess.Popen[bytes], str]]


@pytest.fixture
def start(short_dir: Path) -> Start:
    """Starts a respawner of a program; returns it, and what it reports."""

    def start(program: str) -> tuple[subprocess.Popen[bytes], str]:
        reading, writing = os.pipe()
        command = [sys.executable, "-m", "bros.brosd.respawn", str(short_dir), str(writing)]
        command += [sys.executable, "-c", program, str(short_dir)]
        process = subprocess.Popen(command, pass_fds=[writing])
        os.close(writing)
        with open(reading) as report:
            return process, report.read()

    return start


def life(folder: Path, number: int) -> int:
    """The process id of the daemon's life with that number, once it has begun."""
    path = folder / f"life.{number}"
    wait_until(lambda: path.exists() and path.read_text() != "")
    return int(path.read_text())


def test_a_killed_daemon_lives_again_until_it_is_stopped(start: Start, short_dir: Path) -> None:
    process, report = start(DAEMON)
    first = life(short_dir, 0)
    assert report == f"MAINPID={first}\nREADY=1\n"
    assert respawner_pid(short_dir) == process.pid
    os.kill(first, signal.SIGKILL)
    second = life(short_dir, 1)
    assert second != first
    process.terminate()
    assert process.wait(timeout=30.0) == 0
    assert not Path(f"/proc/{second}").exists()
    assert {path.name for path in short_dir.iterdir()} == {"life.0", "life.1"}


def test_a_stop_between_two_lives_is_the_end(start: Start, short_dir: Path) -> None:
    process, _ = start(DAEMON)
    for number in range(3):  # the pauses grow
        os.kill(life(short_dir, number), signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{life(short_dir, 2)}").exists())
    process.terminate()
    assert process.wait(timeout=30.0) == 0
    assert running_pid(short_dir) is respawner_pid(short_dir) is None


def test_a_daemon_that_never_served_is_not_tried_again(start: Start) -> None:
    process, report = start(FAILS)
    assert process.wait(timeout=30.0) == 1
    assert report == "STATUS=failed: no luck\n"


def test_only_one_respawner_per_folder(start: Start) -> None:
    process, _ = start(DAEMON)
    second, report = start(DAEMON)
    assert second.wait(timeout=30.0) == 1
    assert f"process {process.pid}" in report
    process.terminate()
    assert process.wait(timeout=30.0) == 0


def test_pauses_grow_and_come_to_an_end() -> None:
    backoff = Backoff()
    pauses = [backoff.pause_s(float(second)) for second in range(MAX_RESTARTS + 1)]
    assert pauses == [PAUSE_S * 2**turn for turn in range(MAX_RESTARTS)] + [None]
    assert Backoff().pause_s(0.0) == PAUSE_S
    assert backoff.pause_s(MAX_RESTARTS + WINDOW_S) == PAUSE_S  # long ago is forgotten
