"""Who started the daemon hears how it is, and nobody else can speak for it."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from bros.brosd.systemd import NOTIFY_FD, environ_of_child, notify


def test_systemd_hears_it_at_its_socket(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as inbox:
        inbox.bind(str(short_dir / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(short_dir / "notify"))
        notify("READY=1", "STATUS=fine")
        assert inbox.recv(100) == b"READY=1\nSTATUS=fine"
        for _ in range(10_000):  # what does not read holds up nothing
            notify("STATUS=busy")
    notify("READY=1")  # nobody listens any more


def test_a_parent_hears_it_on_the_inherited_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        monkeypatch.setenv(NOTIFY_FD, str(theirs.fileno()))
        notify("READY=1")
        assert ours.recv(100) == b"READY=1"
        for _ in range(10_000):  # a parent that has stopped reading holds up nothing
            notify("STATUS=" + "x" * 1000)
        ours.close()
        notify("READY=1")


def test_children_do_not_speak_for_the_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", NOTIFY_FD):
        monkeypatch.setenv(name, "9")
    monkeypatch.setenv("OTHER", "9")
    environ = environ_of_child()
    assert environ["OTHER"] == "9"
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", NOTIFY_FD} & environ.keys()
