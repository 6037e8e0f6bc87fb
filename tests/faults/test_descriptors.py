"""File descriptors run out under a running tokenizer: connections are refused, nothing ends."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from bros.brosd.client.client import Client
from bros.brosd.protocol.runtime_folder import client_socket
from fake_daemon import Daemon
from harness import wait_until

LIMIT = 160
CLIENTS = 200


@pytest.fixture
def daemon(model_dir: Path) -> Iterator[Daemon]:
    daemon = Daemon.in_scratch(model_dir)
    _, hard = resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE, (LIMIT, hard))
    yield daemon
    daemon.close()


def num_descriptors(daemon: Daemon) -> int:
    return len(os.listdir(f"/proc/{daemon.process.pid}/fd"))


def test_http_connections_leave_room_for_local_clients(daemon: Daemon) -> None:
    clients = [socket.create_connection(("127.0.0.1", daemon.port)) for _ in range(CLIENTS)]
    refused = 0
    for client in clients:
        client.settimeout(0.05)
        with suppress(TimeoutError):
            refused += client.recv(12) == b"HTTP/1.1 503"
    assert 0 < refused < CLIENTS
    with Client(daemon.runtime) as local:
        assert local.status() is not None
    assert num_descriptors(daemon) < LIMIT
    for client in clients:
        client.close()
    wait_until(lambda: daemon.health().status_code == 200)
    assert daemon.process.poll() is None


def test_local_clients_wait_until_others_leave(daemon: Daemon) -> None:
    path = str(client_socket(daemon.runtime))
    clients = []
    with Client(daemon.runtime) as early:
        assert early.status() is not None
        for number in range(CLIENTS):
            client = socket.socket(socket.AF_UNIX)
            try:
                client.connect(path)
            except OSError:  # the door is closed
                client.close()
                break
            clients.append(client)
            if number % 10 == 0:  # not faster than the process can look
                assert early.status() is not None
        assert 10 < len(clients) < CLIENTS
        assert num_descriptors(daemon) < LIMIT
        assert early.status() is not None  # who is connected is served
        for client in clients:
            client.close()
        wait_until(client_socket(daemon.runtime).exists)
        with Client(daemon.runtime) as late:
            assert late.status() is not None
    wait_until(lambda: daemon.health().status_code == 200)
    assert daemon.process.poll() is None
