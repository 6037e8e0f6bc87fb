"""Heads of requests that do not end are refused early, while others are served."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from fake_daemon import Daemon

START = b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n"
CHUNKED = b"POST /tokenize HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def daemon(model_dir: Path) -> Iterator[Daemon]:
    daemon = Daemon.in_scratch(model_dir)
    yield daemon
    daemon.close()


def connect(daemon: Daemon) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", daemon.port))
    client.settimeout(20.0)
    return client


def everything(client: socket.socket) -> bytes:
    """Return what comes until the connection ends."""
    found = b""
    with suppress(ConnectionError):
        while piece := client.recv(65536):
            found += piece
    return found


@pytest.mark.parametrize(
    ("start", "rest", "status"),
    [
        (b"GET /", b"a" * 4096, b"414"),
        (START + b"x-long: ", b"a" * 4096, b"431"),
        (START + b"x", b"a" * 4096, b"431"),
        (START, b"a:\r\n" * 1024, b"431"),
        (b"", b"\r\n" * 2048, b"431"),
        (CHUNKED + b"1;", b"a" * 4096, b"431"),
        (CHUNKED + b"0\r\n", b"a: b\r\n" * 512, b"431"),
        (CHUNKED + b"0\r\na: ", b"a" * 4096, b"431"),
    ],
)
def test_without_an_end(daemon: Daemon, start: bytes, rest: bytes, status: bytes) -> None:
    """The rest is sent again and again, until the server ends the connection."""
    with connect(daemon) as client:
        client.sendall(start)
        sent = 0
        with suppress(ConnectionError):
            while sent < 96 * 1024:
                client.sendall(rest)
                sent += len(rest)
        assert httpx.get(f"{daemon.url}/v1/models").status_code == 200
        answer = everything(client)
    assert answer.startswith(b"HTTP/1.1 " + status), answer
    assert b'"error"' in answer
    assert b"connection: close" in answer


def test_large_ones_within_the_limits(daemon: Daemon) -> None:
    headers = {f"x-{number}": "a" * 500 for number in range(100)}
    answer = httpx.get(f"{daemon.url}/v1/files?x={'a' * 8000}", headers=headers)
    assert answer.status_code == 200


def test_chunks_of_one_byte(daemon: Daemon) -> None:
    body = b'{"prompt": "' + b"Hi " * 500 + b'"}'
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
    with connect(daemon) as client:
        client.sendall(CHUNKED + chunks + b"0\r\nx-trailer: 1\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 200")


def test_a_second_request_behind_an_answer_is_bounded_too(daemon: Daemon) -> None:
    with connect(daemon) as client:
        client.sendall(START + b"\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 200")
        client.sendall(START + b"x: " + b"a" * 70_000)
        assert everything(client).startswith(b"HTTP/1.1 431")
