"""Processes are killed under load; nothing accepted is lost, and nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import httpx
import pytest

from bros.brosd.locks import respawner_pid, running_pid
from harness import FLOAT32, MODEL, MakeServer, Server, wait_until

pytestmark = pytest.mark.slow

NUM_STREAMS = 16


def body(index: int) -> dict[str, object]:
    return {
        "model": MODEL,
        "prompt": f"Story number {index}. Once upon a time, in a small town,",
        "max_tokens": 48,
        "temperature": 0.8 if index % 2 else 0.0,
        "seed": index,
        "service_tier": "flex" if index % 4 == 0 else "default",
        "ignore_eos": True,
        "stream": True,
    }


def stream(url: str, index: int, after_first: Barrier | None = None) -> str:
    """Return the whole text of a streamed completion; wait for the others after its first piece."""
    pieces = []
    with httpx.stream("POST", f"{url}/v1/completions", json=body(index), timeout=120.0) as answer:
        for line in answer.iter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            chunk = json.loads(line.removeprefix("data: "))
            assert "error" not in chunk, chunk
            pieces.append(chunk["choices"][0]["text"])
            if len(pieces) == 1 and after_first is not None:
                after_first.wait(timeout=60.0)
    return "".join(pieces)


@pytest.fixture(scope="module")
def server(make_server: MakeServer) -> Server:
    return make_server(*FLOAT32)


def test_streams_outlive_a_killed_worker(server: Server) -> None:
    everyone = Barrier(NUM_STREAMS + 1)
    with ThreadPoolExecutor(NUM_STREAMS) as pool:
        undisturbed = list(pool.map(stream, [server.url] * NUM_STREAMS, range(NUM_STREAMS)))
        assert all(undisturbed)
        texts = [pool.submit(stream, server.url, index, everyone) for index in range(NUM_STREAMS)]
        everyone.wait(timeout=60.0)  # each stream has text, and none is near its end
        os.kill(server.child("bros.workers"), signal.SIGKILL)
        assert [text.result() for text in texts] == undisturbed


def test_a_killed_tokenizer_comes_back(server: Server) -> None:
    os.kill(server.child("bros.brosd.tokenizer"), signal.SIGKILL)
    wait_until(lambda: not server.healthy())
    wait_until(server.healthy)
    assert stream(server.url, 1) == stream(server.url, 1)


@pytest.fixture(scope="module")
def impatient(make_server: MakeServer) -> Server:
    return make_server("supervisor.hang_timeout_s=3")


def test_a_stopped_worker_counts_as_dead(impatient: Server) -> None:
    worker = impatient.child("bros.workers")
    os.kill(worker, signal.SIGSTOP)
    wait_until(lambda: impatient.children("bros.workers") not in ([], [worker]))
    wait_until(impatient.healthy)


def test_a_killed_daemon_leaves_no_orphan_and_no_table(impatient: Server) -> None:
    server = impatient
    children = [server.child(module) for module in ("bros.workers", "bros.brosd.tokenizer")]
    respawner = respawner_pid(server.runtime)
    assert respawner is not None
    os.kill(respawner, signal.SIGKILL)
    os.kill(server.pid(), signal.SIGKILL)
    wait_until(lambda: not any(Path(f"/proc/{child}").exists() for child in children), 10.0)
    assert not list(server.runtime.glob("table-*"))
    assert server.run("brosd", "status").returncode == 3
    assert server.start().returncode == 0  # despite a stale lock file and dead sockets
    assert server.healthy()


def test_a_killed_daemon_serves_again_by_itself(make_server: MakeServer) -> None:
    server = make_server()
    killed = server.pid()
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: running_pid(server.runtime) not in (None, killed))
    wait_until(server.healthy)
    assert stream(server.url, 1) == stream(server.url, 1)
    status = server.run("brosd", "status", "--json")
    assert json.loads(status.stdout)["daemon_restarts"] == 1
    assert "1 daemon" in server.run("brosd", "status").stdout
    assert server.stop().returncode == 0
    assert respawner_pid(server.runtime) is running_pid(server.runtime) is None
    assert {path.name for path in server.runtime.iterdir()} == {"brosd.lock"}
