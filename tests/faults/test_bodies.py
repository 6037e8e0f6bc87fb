"""Bodies that are slow, many or unread take a bounded share, and others are served meanwhile."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from fake_daemon import Daemon
from harness import wait_until

MIB = 2**20
HEAD = b"POST /tokenize HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n"
LARGE = HEAD % (MIB + 1) + b" " * MIB
FORM = (
    b"POST /v1/files HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000000\r\n"
    b"content-type: multipart/form-data; boundary=x\r\n\r\n"
    b'--x\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n'
)


@pytest.fixture(scope="module")
def daemon(model_dir: Path) -> Iterator[Daemon]:
    daemon = Daemon.in_scratch(
        model_dir,
        f"server.max_unfinished_bytes={6 * MIB}",
        f"server.max_unfinished_bytes_per_client={4 * MIB}",
        "server.max_requests_per_key=8",
        "server.send_timeout_s=1",
    )
    yield daemon
    daemon.close()


def connect(daemon: Daemon, sent: bytes, source: str = "127.0.0.1") -> socket.socket:
    client = socket.create_connection(("127.0.0.1", daemon.port), source_address=(source, 0))
    client.settimeout(20.0)
    client.sendall(sent)
    return client


def tokenize(daemon: Daemon) -> int:
    return httpx.post(f"{daemon.url}/tokenize", json={"prompt": "Hi"}).status_code


def refused(clients: list[socket.socket]) -> int:
    """How many have been answered by now, each with a 429."""
    answered, _, _ = select.select(clients, [], [], 0)
    assert all(b"HTTP/1.1 429" in client.recv(4096, socket.MSG_PEEK) for client in answered)
    return len(answered)


def test_many_unfinished_bodies_of_one_client(daemon: Daemon) -> None:
    """Those that are largest make room; a small one of the same address is served."""
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(daemon, LARGE)) for _ in range(6)]
        wait_until(lambda: refused(clients) == 2)
        assert tokenize(daemon) == 200
        wait_until(lambda: refused(clients) == 3)


def test_the_client_that_uses_most_makes_room(daemon: Daemon) -> None:
    small = HEAD % 20 + b'{"prompt": "Hi'
    with ExitStack() as stack:
        modest = stack.enter_context(connect(daemon, small, "127.0.0.2"))
        many = [stack.enter_context(connect(daemon, LARGE, "127.0.0.3")) for _ in range(4)]
        other = [stack.enter_context(connect(daemon, LARGE, "127.0.0.4")) for _ in range(2)]
        wait_until(lambda: refused(many) == 1)
        modest.sendall(b'"}    ')
        assert modest.recv(100).startswith(b"HTTP/1.1 200")
        assert refused(other) == 0


def test_many_unfinished_uploads(daemon: Daemon) -> None:
    """An upload counts as far as it is in memory."""
    upload = FORM + b"x" * 900_000
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(daemon, upload)) for _ in range(6)]
        wait_until(lambda: refused(clients) == 2)
        assert tokenize(daemon) == 200


def test_many_stalled_requests(daemon: Daemon) -> None:
    """As many as a client may have at a time: the oldest makes room for one that is complete."""
    stalled = HEAD % 100 + b"{"
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(daemon, stalled)) for _ in range(8)]
        assert tokenize(daemon) == 200
        assert b"HTTP/1.1 429" in clients[0].recv(4096)


def test_a_client_that_does_not_read_a_file(daemon: Daemon) -> None:
    content = b"x" * (8 * MIB)
    form = {"purpose": "user_data"}
    stored = httpx.post(f"{daemon.url}/v1/files", data=form, files={"file": ("a", content)})
    head = f"GET /v1/files/{stored.json()['id']}/content HTTP/1.1\r\nhost: localhost\r\n\r\n"
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", daemon.port))
        local = client.getsockname()[1]
        client.sendall(head.encode())
        wait_until(lambda: _is_open(daemon, local), 10.0)
        assert tokenize(daemon) == 200
        wait_until(lambda: not _is_open(daemon, local), 20.0)


def _is_open(daemon: Daemon, port: int) -> bool:
    """Whether the server's end of the connection from `port` is established."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        ports = [int(end.split(":")[1], 16) for end in fields[1:3]]
        if ports == [daemon.port, port]:
            return fields[3] == "01"
    return False


def test_an_upload_that_trickles(daemon: Daemon) -> None:
    """A byte now and then does not keep it alive: each piece has `body_timeout_s`."""
    daemon.restart("server.body_timeout_s=1")
    with connect(daemon, FORM) as client:
        client.settimeout(0.2)
        answer = b""
        for _ in range(100):
            try:
                answer = client.recv(4096)
                break
            except TimeoutError:
                client.sendall(b"x")
                assert tokenize(daemon) == 200
    assert b"HTTP/1.1 408" in answer


def test_a_fault_in_a_long_body(daemon: Daemon) -> None:
    """It is explained by its byte only, and others are served beside it."""

    def post(content: bytes) -> httpx.Response:
        return httpx.post(f"{daemon.url}/tokenize", content=content, timeout=30.0)

    start = b'{"a": [' + b"0," * 2_000_000
    with ThreadPoolExecutor() as pool:
        posts = [pool.submit(post, start + fault + b"]}") for fault in (b"NaN", b'"\\ud800"')]
        assert tokenize(daemon) == 200
        errors = [post.result().json()["error"] for post in posts]
    assert [error["param"] for error in errors] == ["body", "body"]
    assert f"NaN is no JSON number (byte {len(start)})" in errors[0]["message"]
    assert errors[1]["code"] == "invalid_json"


def test_a_fault_in_a_short_body(daemon: Daemon) -> None:
    for bad in ('{"a": NaN}', '{"a": "\\ud800"}'):
        content = '{"prompt": ["Hi", ' + bad + "]}"
        answer = httpx.post(f"{daemon.url}/tokenize", content=content)
        assert answer.json()["error"]["param"] == "prompt[1].a"
