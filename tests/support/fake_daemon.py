"""The daemon's side of a real tokenizer process: a test that answers with tokens of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx

from bros.brosd.config import load, save
from bros.brosd.protocol import wire
from bros.brosd.protocol.runtime_folder import config_file, daemon_socket, inbox_socket
from bros.brosd.protocol.sockets import BlockingInbox, BlockingOutbox
from harness import MODEL, free_port, wait_until

EOS = 2
QUIET_S = 0.5  # less than a heartbeat
TEXT = [504, 3575, 282, 4649]  # any four ids
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8}


class Daemon:
    """The daemon's side: takes requests, answers with tokens of its own choosing."""

    def __init__(self, runtime: Path, model: Path, *settings: str) -> None:
        self.runtime = runtime
        self.port = free_port()
        self.configure(*settings)
        self.inbox: BlockingInbox[wire.ToDaemon] = BlockingInbox(
            daemon_socket(runtime), wire.ToDaemon
        )
        self.model = model
        self.generation = 0
        self.start()

    @classmethod
    def in_scratch(cls, model: Path, *settings: str) -> Daemon:
        """One in a new folder, which `close` deletes."""
        return cls(Path(tempfile.mkdtemp(prefix="bros-")), model, *settings)

    def close(self) -> None:
        self.kill()
        self.inbox.close()
        shutil.rmtree(self.runtime)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def configure(self, *settings: str) -> None:
        """Write the configuration of the next incarnation."""
        folder = self.runtime
        own = [f"runtime_dir={folder}", f"state_dir={folder}", f"server.port={self.port}"]
        save(load(overrides=[*own, *settings], environ={}), config_file(folder))

    def restart(self, *settings: str) -> None:
        """Kill it, and start the next one with other settings."""
        self.kill()
        self.configure(*settings)
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the next incarnation and make it ready."""
        self.generation += 1
        command = [sys.executable, "-m", "bros.brosd.tokenizer", "--runtime-dir", str(self.runtime)]
        command += ["--generation", str(self.generation), "--model", str(self.model)]
        self.process = subprocess.Popen(command)
        self.outbox: BlockingOutbox[wire.ToTokenizer] = BlockingOutbox(
            inbox_socket(self.runtime, "tokenizer", self.generation)
        )
        assert self.recv() == wire.Hello("tokenizer", self.generation)
        assert self.recv() == wire.Ready("tokenizer", self.generation)
        self.outbox.send(stats())
        wait_until(lambda: self.health().status_code == 200)

    def health(self) -> httpx.Response:
        return httpx.get(f"{self.url}/health")

    def recv(self) -> wire.ToDaemon:
        while True:
            message = self.inbox.recv()
            if not isinstance(message, wire.Heartbeat):
                return message

    def drain_inbox(self) -> None:
        """Take and forget what comes until nothing does for a moment."""
        while self.inbox.poll(QUIET_S):
            self.inbox.recv()

    def recv_admit(self) -> wire.Admit:
        message = self.recv()
        assert isinstance(message, wire.Admit)
        return message

    def emit(self, rid: int, token: int, finish: wire.FinishReason) -> None:
        self.outbox.send(wire.Emit([rid], wire.pack_ids([token]), [finish]))

    def answer(self, rid: int, tokens: list[int]) -> None:
        for token in tokens:
            self.emit(rid, token, wire.FinishReason.NONE)
        self.emit(rid, EOS, wire.FinishReason.STOP)

    def post(self, body: dict[str, Any], url: str = "/v1/chat/completions") -> httpx.Response:
        return httpx.post(f"{self.url}{url}", json=body, timeout=30.0)

    def post_text(self, body: str, url: str = "/v1/chat/completions") -> httpx.Response:
        """Post JSON that Python itself cannot write, as it is nested too deeply."""
        return httpx.post(f"{self.url}{url}", content=body, timeout=30.0)


def stats(state: str = "ready", max_len: int = 512, vocab_size: int = 49152) -> wire.Stats:
    return wire.Stats(
        state=state,
        model=MODEL,
        policy="bros",
        uptime_s=1.0,
        max_len=max_len,
        vocab_size=vocab_size,
        iterations=0,
        iteration_s=0.0,
        scheduling_s=0.0,
        prediction_error=0.0,
        prediction_error_p95=0.0,
        worker_restarts=0,
        tokenizer_restarts=0,
        rt=wire.ClassStats(),
        be=wire.ClassStats(),
        kv=wire.KvStats(blocks_total=8, blocks_free=8),
        slo=wire.Slo(ttft_s=0.5, tpot_s=0.08),
    )


def batch_line(index: int) -> bytes:
    """A line of a batch file that asks `CHAT`."""
    request = {"custom_id": f"n{index}", "method": "POST", "url": "/v1/chat/completions"}
    return json.dumps({**request, "body": CHAT}).encode()
