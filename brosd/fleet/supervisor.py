"""Starts, watches and restarts the tokenizer and the workers."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from bros.brosd.config import SupervisorConfig

log = logging.getLogger(__name__)

STOP_GRACE_S = 5.0
FAULT_GRACE_S = 0.1


@dataclass(frozen=True)
class Exited:
    """A child is gone; `status` is as in `subprocess`: negative for a signal."""

    peer: str
    generation: int
    status: int


@dataclass
class Child:
    """One supervised process. Each incarnation has a generation, and sockets of its own."""

    peer: str
    module: str
    arguments: list[str]
    generation: int = 0
    process: asyncio.subprocess.Process | None = None
    ready: bool = False
    served: bool = False  # whether any incarnation was ready
    reason: str = ""  # what its last Fault said
    started_s: float = 0.0
    beat_s: float = 0.0
    restarts: deque[float] = field(default_factory=deque)

    @property
    def command(self) -> list[str]:
        module = [sys.executable, "-m", self.module, *self.arguments]
        return [*module, "--generation", str(self.generation)]


class Supervisor:
    """Owns the children; reports their ends through `post`, decides nothing about requests."""

    def __init__(self, limits: SupervisorConfig, post: Callable[[Exited], None]) -> None:
        self._limits = limits
        self._post = post
        self._watchers: set[asyncio.Task[None]] = set()
        self.children: dict[str, Child] = {}
        self._looked_s = time.monotonic()

    async def start(self, child: Child) -> None:
        """Start the next incarnation of a child."""
        self.children[child.peer] = child
        child.generation += 1
        child.ready = False
        child.reason = ""
        child.started_s = child.beat_s = time.monotonic()
        # Without the working directory on the path, a file there cannot stand in for a module.
        environ = {**os.environ, "PYTHONSAFEPATH": "1"}
        environ.pop("NOTIFY_SOCKET", None)
        child.process = await asyncio.create_subprocess_exec(
            *child.command, stdin=asyncio.subprocess.DEVNULL, env=environ
        )
        log.info("event=child_started peer=%s pid=%d", child.peer, child.process.pid)
        watcher = asyncio.create_task(self._watch(child, child.process, child.generation))
        self._watchers.add(watcher)
        watcher.add_done_callback(self._watchers.discard)

    async def _watch(
        self, child: Child, process: asyncio.subprocess.Process, generation: int
    ) -> None:
        status = await process.wait()
        await asyncio.sleep(FAULT_GRACE_S)  # its last words may still be on the way
        self._post(Exited(child.peer, generation, status))

    def current(self, peer: str, generation: int) -> Child | None:
        """The child that a message is from; None if that incarnation is history."""
        child = self.children.get(peer)
        return child if child is not None and child.generation == generation else None

    def may_restart(self, child: Child) -> bool:
        """Count a restart; False if there were too many of late, or it never was ready."""
        now_s = time.monotonic()
        child.restarts.append(now_s)
        while child.restarts[0] < now_s - self._limits.restart_window_s:
            child.restarts.popleft()
        return child.served and len(child.restarts) <= self._limits.max_restarts

    def kill_hung(self) -> None:
        """Kill children whose heartbeat stopped, or which do not get ready."""
        now_s = time.monotonic()
        if now_s - self._looked_s > self._limits.hang_timeout_s / 2:
            # We slept ourselves, and what they sent meanwhile is still to be read.
            for child in self.children.values():
                child.beat_s = now_s
        self._looked_s = now_s
        for child in self.children.values():
            silent_s, age_s = now_s - child.beat_s, now_s - child.started_s
            late = not child.ready and age_s > self._limits.start_timeout_s
            if late or silent_s > self._limits.hang_timeout_s:
                child.reason = f"silent for {silent_s:.0f} s, {age_s:.0f} s after its start"
                log.error("event=child_hung peer=%s reason=%r", child.peer, child.reason)
                self.kill(child)

    def kill(self, child: Child) -> None:
        """SIGKILL; its end is reported like any other."""
        if child.process is not None and child.process.returncode is None:
            child.process.send_signal(signal.SIGKILL)

    def forget(self, child: Child) -> None:
        """The child is given up."""
        self.children.pop(child.peer, None)

    async def stop(self) -> None:
        """Wait for children that were asked to stop; kill those that do not."""
        processes = [child.process for child in self.children.values() if child.process]
        ends = [asyncio.create_task(process.wait()) for process in processes]
        if ends:
            await asyncio.wait(ends, timeout=STOP_GRACE_S)
        for child in self.children.values():
            self.kill(child)
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*ends, *self._watchers, return_exceptions=True)


def describe(status: int) -> str:
    """An exit status in words."""
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    return f"exited with status {status}"
