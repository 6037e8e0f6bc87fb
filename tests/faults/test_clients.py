"""Clients that are slow, vanish or send garbage harm nobody, and leave nothing behind."""

from __future__ import annotations

import os
import random
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import msgspec
import pytest
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bros.brosd.client.client import Client
from bros.brosd.protocol import wire
from bros.brosd.protocol.sockets import encode, ipc
from fake_daemon import CHAT, TEXT, Daemon
from harness import wait_until

MANY_TOKENS = 40_000  # more text than sockets buffer


@pytest.fixture(scope="module")
def daemon(model_dir: Path) -> Iterator[Daemon]:
    timeouts = [f"server.{name}_timeout_s=1" for name in ("header", "body", "send")]
    daemon = Daemon.in_scratch(model_dir, *timeouts)
    yield daemon
    daemon.close()


def num_descriptors(daemon: Daemon) -> int:
    return len(os.listdir(f"/proc/{daemon.process.pid}/fd"))


@pytest.fixture
def nothing_left(daemon: Daemon) -> Iterator[None]:
    """Check that the process has no more descriptors than before, and still answers."""
    daemon.health()
    before = num_descriptors(daemon)
    yield
    assert daemon.health().status_code == 200
    wait_until(lambda: num_descriptors(daemon) <= before + 1, 10.0)


def connect(daemon: Daemon, sent: bytes = b"") -> socket.socket:
    client = socket.create_connection(("127.0.0.1", daemon.port))
    client.settimeout(20.0)
    client.sendall(sent)
    return client


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("sent", [b"", b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\n"])
def test_headers_that_do_not_come(daemon: Daemon, sent: bytes) -> None:
    clients = [connect(daemon, sent) for _ in range(20)]
    for client in clients:
        with client, suppress(ConnectionError):
            assert client.recv(1) == b""


@pytest.mark.usefixtures("nothing_left")
def test_a_body_that_does_not_come(daemon: Daemon) -> None:
    head = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{"
    with connect(daemon, head) as client:
        assert b"408" in client.recv(100)
    boundary = b"content-type: multipart/form-data; boundary=x\r\ncontent-length: 100\r\n\r\n--x"
    with connect(daemon, b"POST /v1/files HTTP/1.1\r\nhost: localhost\r\n" + boundary) as client:
        assert b"408" in client.recv(100)
    assert not list((daemon.runtime / "files").iterdir())


@pytest.mark.usefixtures("nothing_left")
def test_a_client_that_does_not_read_its_stream(daemon: Daemon) -> None:
    body = msgspec.json.encode({**CHAT, "stream": True})
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n"
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", daemon.port))
    client.sendall(head % len(body) + body)
    rid = daemon.recv_admit().rid
    tokens = wire.pack_ids([TEXT[0]] * MANY_TOKENS)
    finish = [wire.FinishReason.NONE] * MANY_TOKENS
    daemon.outbox.send(wire.Emit([rid] * MANY_TOKENS, tokens, finish))
    assert daemon.recv() == wire.Abort(rid)
    client.close()


@pytest.mark.usefixtures("nothing_left")
def test_clients_that_vanish(daemon: Daemon) -> None:
    body = msgspec.json.encode({**CHAT, "stream": True})
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n"
    clients = [connect(daemon, head % len(body) + body) for _ in range(20)]
    rids = {daemon.recv_admit().rid for _ in clients}
    for client in clients:
        client.close()
    aborted = [daemon.recv() for _ in clients]
    assert {message.rid for message in aborted if isinstance(message, wire.Abort)} == rids
    counted = httpx.get(f"{daemon.url}/metrics").text
    aborts = 'class="rt",finished_reason="abort"'
    (line,) = (line for line in counted.splitlines() if aborts in line)
    assert float(line.split()[-1]) >= len(clients)


FRAMES = st.one_of(
    st.binary(max_size=200),
    st.lists(
        st.one_of(
            st.integers(-(2**63), 2**64 - 1),
            st.text(max_size=8),
            st.none(),
            st.floats(),
            st.binary(),
        ),
        max_size=6,
    ).map(msgspec.msgpack.encode),
    st.tuples(
        st.sampled_from(["ask", "cancel", "job_put", "job_fetch", "job_cancel", "status_query"]),
        st.integers(-1, 2**63 - 1),
        st.one_of(
            st.text(max_size=5), st.binary(max_size=5), st.lists(st.integers(0, 9), max_size=2)
        ),
        st.one_of(st.binary(max_size=20), st.integers(0, 2**40)),
    ).map(msgspec.msgpack.encode),
)


@pytest.mark.usefixtures("nothing_left")
def test_garbage_frames(daemon: Daemon) -> None:
    """Both the clients' socket and the process's own work as before."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
    edge = context.socket(zmq.DEALER)
    edge.connect(ipc(daemon.runtime / "client.sock"))
    inbox = context.socket(zmq.PUSH)
    inbox.connect(ipc(daemon.runtime / f"tokenizer.{daemon.generation}.sock"))

    @settings(
        max_examples=int(os.environ.get("BROS_FUZZ_EXAMPLES", "300")),
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(frames=st.lists(FRAMES, min_size=1, max_size=3))
    def send(frames: list[bytes]) -> None:
        edge.send_multipart(frames)
        inbox.send(b"\xc1" + frames[0])  # 0xc1 is never MessagePack: it must not say Stop

    send()
    edge.send(encode(wire.StatusQuery(rid=7)))
    deadline_s = time.monotonic() + 60.0
    while msgspec.msgpack.decode(edge.recv(), type=wire.ToClient).rid != 7:
        assert time.monotonic() < deadline_s
    edge.close(linger=0)
    inbox.close(linger=0)
    with Client(daemon.runtime) as client:
        assert client.status() is not None
    daemon.drain_inbox()


@pytest.mark.usefixtures("nothing_left")
def test_garbage_http(daemon: Daemon) -> None:
    rng = random.Random(1)
    for _ in range(100):
        start = rng.choice(
            [b"", b"GET / HTTP/1.1\r\n", b"POST /v1/files HTTP/1.1\r\n", b"\x16\x03"]
        )
        with connect(daemon, start + rng.randbytes(rng.randrange(300)) + b"\r\n\r\n"):
            pass
    assert httpx.get(f"{daemon.url}/v1/models").status_code == 200
