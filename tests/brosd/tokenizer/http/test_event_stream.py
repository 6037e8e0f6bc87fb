"""Streams say early that they have begun, and that they still wait."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx

from bros.brosd.protocol import wire
from fake_daemon import CHAT, TEXT, Daemon

STREAM = {**CHAT, "stream": True}


@contextmanager
def opened(daemon: Daemon) -> Iterator[httpx.Response]:
    url = f"{daemon.url}/v1/chat/completions"
    with httpx.stream("POST", url, json=STREAM, timeout=60.0) as response:
        yield response


def test_a_stream_that_waits_has_its_header_and_says_so(shared_daemon: Daemon) -> None:
    with opened(shared_daemon) as response:  # the header is there, and no token yet
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        admit = shared_daemon.recv_admit()
        lines = response.iter_lines()
        assert next(lines).startswith(":")  # a comment, which clients skip
        shared_daemon.answer(admit.rid, TEXT)
        events = [line for line in lines if line]
    assert all(event.startswith("data: ") for event in events)
    assert events[-1] == "data: [DONE]"
    assert '"finish_reason":"stop"' in events[-2]


def test_a_refusal_before_the_header_has_its_own_status(
    shared_daemon: Daemon, pool: ThreadPoolExecutor
) -> None:
    response = pool.submit(shared_daemon.post, STREAM)
    shared_daemon.outbox.send(wire.Fail(shared_daemon.recv_admit().rid, 429, "queue_full", "no"))
    assert response.result().status_code == 429
    assert response.result().json()["error"]["code"] == "queue_full"


def test_a_failure_after_the_header_is_an_event(shared_daemon: Daemon) -> None:
    with opened(shared_daemon) as response:
        admit = shared_daemon.recv_admit()
        shared_daemon.outbox.send(wire.Fail(admit.rid, 500, "worker_lost", "no"))
        events = [line for line in response.iter_lines() if line]
    assert '"code":"worker_lost"' in events[0]
    assert events[1:] == ["data: [DONE]"]


def test_a_client_that_leaves_while_it_waits_aborts_its_request(shared_daemon: Daemon) -> None:
    with opened(shared_daemon):
        admit = shared_daemon.recv_admit()
    assert shared_daemon.recv() == wire.Abort(admit.rid)
