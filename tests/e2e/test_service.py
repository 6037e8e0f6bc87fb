"""The daemon as systemd runs it: with a notify socket, and at an address others can reach."""

from __future__ import annotations

import os
import queue
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from harness import MODEL, MakeServer, Server, wait_until

pytestmark = pytest.mark.slow

WATCHDOG_S = 2.0


@dataclass
class Manager:
    """Plays systemd: reads the notify socket all the time, and knows the service."""

    server: Server
    inbox: queue.SimpleQueue[list[str]]
    process: subprocess.Popen[bytes]
    key: str

    def messages(self, timeout_s: float) -> list[str]:
        """Return the assignments of the next message; none if no message comes in time."""
        try:
            return self.inbox.get(timeout=timeout_s)
        except queue.Empty:
            return []

    def wait_for(self, assignment: str) -> None:
        wait_until(lambda: assignment in self.messages(1.0))

    def models(self, key: str | None) -> int:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return httpx.get(f"{self.server.url}/v1/models", headers=headers).status_code


def read_messages(inbox: socket.socket, messages: queue.SimpleQueue[list[str]]) -> None:
    """Pass on what comes until the socket is shut down."""
    while message := inbox.recv(4096):
        messages.put(message.decode().split("\n"))


@pytest.fixture(scope="module")
def manager(make_server: MakeServer) -> Iterator[Manager]:
    server = make_server(start=False)
    refused = server.run("brosd", "start", "--set", "server.host=0.0.0.0")
    assert refused.returncode == 1
    assert "brosd key create" in refused.stderr
    key = server.run("brosd", "key", "create", "alice").stdout.strip()
    path = Path(tempfile.mkdtemp(prefix="bros-")) / "notify"
    inbox = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    inbox.bind(str(path))
    (server.folder / "bros.toml").write_text("[slo]\nttft_s = 1.0\n")
    config = ["--config", str(server.folder / "bros.toml"), "--set", "server.host=0.0.0.0"]
    watchdog = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": str(int(WATCHDOG_S * 1e6))}
    with (server.folder / "log").open("wb") as log:
        process = subprocess.Popen(
            server.command("brosd", "start", *config),
            env=server.environ | watchdog,
            stderr=log,
        )
    messages: queue.SimpleQueue[list[str]] = queue.SimpleQueue()
    reader = threading.Thread(target=read_messages, args=(inbox, messages))
    reader.start()
    manager = Manager(server, messages, process, key)
    manager.wait_for("READY=1")
    yield manager
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0
    inbox.shutdown(socket.SHUT_RD)
    reader.join()
    inbox.close()
    path.unlink()
    path.parent.rmdir()


def test_a_key_is_needed(manager: Manager) -> None:
    assert manager.models(manager.key) == 200
    assert manager.models(None) == 401
    assert manager.models("bros-wrong") == 401
    answer = httpx.get(f"{manager.server.url}/metrics")
    assert answer.json()["error"]["type"] == "authentication_error"
    for probe in ("/health", "/ready"):
        assert httpx.get(f"{manager.server.url}{probe}").status_code == 200
    assert manager.server.run("bros", "chat", "--once", "Hi", "--max-tokens", "2").returncode == 0


def test_the_watchdog_hears_from_the_scheduler(manager: Manager) -> None:
    for _ in range(3):
        manager.wait_for("WATCHDOG=1")
    statuses = [m for m in manager.messages(WATCHDOG_S) if m.startswith("STATUS=ready: ")]
    assert statuses
    os.kill(manager.process.pid, signal.SIGSTOP)
    try:
        while manager.messages(0.0):
            pass
        assert manager.messages(WATCHDOG_S) == []  # systemd would restart it now
    finally:
        os.kill(manager.process.pid, signal.SIGCONT)
    manager.wait_for("WATCHDOG=1")
    assert manager.models(manager.key) == 200


def test_keys_count_as_soon_as_they_are_made_or_revoked(manager: Manager) -> None:
    server = manager.server
    assert manager.models(manager.key) == 200
    bob = server.run("brosd", "key", "create", "bob").stdout.strip()
    assert server.run("brosd", "key", "revoke", "alice").returncode == 0
    assert manager.models(bob) == 200
    assert manager.models(manager.key) == 401
    manager.key = bob


def test_a_reload_takes_what_can_change(manager: Manager) -> None:
    server = manager.server
    (server.folder / "bros.toml").write_text("[slo]\nttft_s = 2.0\n[kv]\nblock_size = 32\n")
    assert server.run("brosd", "reload").returncode == 0
    manager.wait_for("RELOADING=1")
    manager.wait_for("READY=1")
    log = (server.folder / "log").read_text()
    assert "event=needs_restart key=kv.block_size" in log
    (server.folder / "bros.toml").write_text("[slo\n")
    assert server.run("brosd", "reload").returncode == 0
    wait_until(lambda: "event=not_reloaded" in (server.folder / "log").read_text())
    body = {"model": MODEL, "prompt": "Secret words", "max_tokens": 2}
    headers = {"authorization": f"Bearer {manager.key}"}
    assert httpx.post(f"{server.url}/v1/completions", json=body, headers=headers).status_code == 200
    assert "Secret" not in (server.folder / "log").read_text()


def test_the_doctor_finds_what_is_wrong(manager: Manager) -> None:
    server = manager.server
    healthy = server.run("bros", "doctor", "--set", "server.host=0.0.0.0")
    assert healthy.returncode == 0, healthy.stdout
    assert "daemon       ready" in healthy.stdout
    full = server.run("bros", "doctor", "--json", "--set", f"batch.min_free_bytes={2**60}")
    assert full.returncode == 1
    assert "free some" in full.stdout
