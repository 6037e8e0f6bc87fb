"""A daemon for tests. They drive it as a user does: through its command line and its port."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from bros.brosd.locks import running_pid

MODEL = "smollm2-135m-instruct"
START_TIMEOUT_S = 240.0
# float32 is exact and three times slower than bfloat16; these are objectives that it can meet.
FLOAT32 = ("model.dtype=float32", "slo.ttft_s=5", "slo.tpot_s=0.4")
# The server that tests share if the defaults suit them; one of these tests tries the limit.
PLAIN = ("server.max_body_bytes=1048576",)


def free_port() -> int:
    """Return a port that nobody listens on.

    It lies below the ports that the kernel gives to connections, which could take it meanwhile.
    """
    while True:
        port = random.SystemRandom().randrange(10_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


Done = subprocess.CompletedProcess[str]


@dataclass
class Server:
    """A daemon that has folders of its own and is driven through its command line."""

    folder: Path
    cache: Path
    settings: list[str] = field(default_factory=list)
    port: int = field(default_factory=free_port)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def runtime(self) -> Path:
        return self.folder / "run"

    @property
    def environ(self) -> dict[str, str]:
        return {
            **os.environ,
            "BROS_RUNTIME_DIR": str(self.runtime),
            "BROS_STATE_DIR": str(self.folder / "state"),
            "BROS_CACHE_DIR": str(self.cache),
            "BROS_SERVER_PORT": str(self.port),
        }

    def run(self, *command: str, timeout_s: float = START_TIMEOUT_S) -> Done:
        """Run `bros ...` or `brosd ...` to its end."""
        return subprocess.run(
            self.command(*command),
            env=self.environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def command(self, *command: str) -> list[str]:
        program, *arguments = command
        return [str(Path(sys.executable).parent / program), *arguments]

    def start(self, *arguments: str) -> Done:
        settings = [word for setting in self.settings for word in ("--set", setting)]
        return self.run("brosd", "start", "--detach", *settings, *arguments)

    def stop(self, *arguments: str) -> Done:
        return self.run("brosd", "stop", *arguments)

    def pid(self) -> int:
        pid = running_pid(self.runtime)
        assert pid is not None
        return pid

    def child(self, module: str) -> int:
        """Return the process id of the daemon's child that runs `module`."""
        found = self.children(module)
        assert found, f"no child runs {module}"
        return found[0]

    def children(self, module: str) -> list[int]:
        """Return the process ids of the daemon's children that run `module`."""
        children = Path(f"/proc/{self.pid()}/task/{self.pid()}/children").read_text().split()
        return [int(child) for child in children if module in _words(child)]

    def healthy(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", timeout=5.0).status_code == 200
        except httpx.TransportError:
            return False

    def log(self) -> str:
        log = self.folder / "state" / "brosd.log"
        return log.read_text() if log.exists() else ""


def _words(pid: str) -> list[str]:
    """Return the command line of a process; none if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return []


def wait_until(condition: Callable[[], bool], timeout_s: float = 120.0) -> None:
    """Poll until the condition holds; fail if it does not in time."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {timeout_s:.0f} s"
        time.sleep(0.05)


MakeServer = Callable[..., Server]
