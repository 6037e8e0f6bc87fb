"""Starts, watches and restarts the tokenizer and the workers. Only it writes to a `Child`."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from bros.brosd.config import SupervisorConfig
from bros.brosd.systemd import environ_of_child

log = logging.getLogger(__name__)

STOP_GRACE_S = 5.0
FAULT_GRACE_S = 0.1
NOT_STARTED = 127  # the status of a child for which there is no process; a shell's number for it
NOT_STARTED_PAUSE_S = 1.0


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
    reason: str = ""  # why it ends, if that is known
    started_s: float = 0.0
    beat_s: float | None = None  # when it was last heard; None before its first message
    ends_s: deque[float] = field(default_factory=deque)  # when incarnations ended, recently

    @property
    def command(self) -> list[str]:
        module = [sys.executable, "-m", self.module, *self.arguments]
        return [*module, "--generation", str(self.generation)]

    @property
    def restarts(self) -> int:
        """How often it was started again."""
        return max(0, self.generation - 1)


class Supervisor:
    """Owns the children, and reports their ends through `post`."""

    def __init__(self, limits: SupervisorConfig, post: Callable[[Exited], None]) -> None:
        self._limits = limits
        self._post = post
        self._watchers: set[asyncio.Task[None]] = set()
        self.children: dict[str, Child] = {}
        self._looked_s = time.monotonic()

    async def start(self, child: Child) -> None:
        """Start the next incarnation of a child. If the system refuses, that is its end."""
        self.children[child.peer] = child
        child.generation += 1
        child.ready = False
        child.reason = ""
        child.started_s = time.monotonic()
        child.beat_s = None
        try:
            child.process = await asyncio.create_subprocess_exec(
                *child.command, stdin=asyncio.subprocess.DEVNULL, env=environ_of_child()
            )
        except OSError as error:
            child.process = None
            child.reason = f"cannot be started: {error.strerror}"
        else:
            log.info("event=child_started peer=%s pid=%d", child.peer, child.process.pid)
        watcher = asyncio.create_task(self._watch(child, child.process, child.generation))
        self._watchers.add(watcher)
        watcher.add_done_callback(self._watchers.discard)

    async def _watch(
        self, child: Child, process: asyncio.subprocess.Process | None, generation: int
    ) -> None:
        if process is None:
            status = NOT_STARTED
            await asyncio.sleep(NOT_STARTED_PAUSE_S)
        else:
            status = await process.wait()
            await asyncio.sleep(FAULT_GRACE_S)  # its last words may still be on the way
        self._post(Exited(child.peer, generation, status))

    # -- what children say -----------------------------------------------------------------------

    def current(self, peer: str, generation: int) -> Child | None:
        """Return the child that sent a message; None if that incarnation has ended."""
        child = self.children.get(peer)
        return child if child is not None and child.generation == generation else None

    def note_beat(self, child: Child) -> None:
        """The child has said something: it is alive."""
        child.beat_s = time.monotonic()

    def note_ready(self, child: Child) -> None:
        """The child serves."""
        child.ready = child.served = True
        log.info("event=child_ready peer=%s generation=%d", child.peer, child.generation)

    def note_fault(self, child: Child, reason: str) -> None:
        """The child has said why it is about to end."""
        child.reason = reason
        log.error("event=fault peer=%s reason=%r", child.peer, reason)

    def note_end(self, child: Child, status: int) -> str:
        """The child is gone. Return why, in words."""
        child.ready = False
        reason = child.reason or describe(status)
        log.error("event=child_lost peer=%s reason=%r", child.peer, reason)
        return reason

    # -- what becomes of them --------------------------------------------------------------------

    def may_restart(self, child: Child) -> bool:
        """Count an end. Return False if the child was never ready, or ended too often recently."""
        now_s = time.monotonic()
        child.ends_s.append(now_s)
        while child.ends_s[0] < now_s - self._limits.restart_window_s:
            child.ends_s.popleft()
        return child.served and len(child.ends_s) <= self._limits.max_restarts

    def kill_hung(self) -> None:
        """Kill children whose heartbeat has stopped, or which do not become ready."""
        now_s = time.monotonic()
        if now_s - self._looked_s > self._limits.hang_timeout_s / 2:
            # This process itself slept, and what they sent meanwhile is still to be read.
            for child in self.children.values():
                if child.beat_s is not None:
                    child.beat_s = now_s
        self._looked_s = now_s
        for child in self.children.values():
            age_s = now_s - child.started_s
            silent_s = 0.0 if child.beat_s is None else now_s - child.beat_s
            late = not child.ready and age_s > self._limits.start_timeout_s
            if late or silent_s > self._limits.hang_timeout_s:
                self.kill(child, f"silent for {silent_s:.0f} s, {age_s:.0f} s after its start")

    def kill(self, child: Child, reason: str) -> None:
        """Send SIGKILL and note why; the end is reported like any other."""
        child.reason = reason
        log.error("event=child_killed peer=%s reason=%r", child.peer, reason)
        _kill(child)

    def forget(self, child: Child) -> None:
        """Give the child up."""
        self.children.pop(child.peer, None)

    async def stop(self) -> None:
        """Wait for children that were asked to stop; kill those that do not."""
        processes = [child.process for child in self.children.values() if child.process]
        ends = [asyncio.create_task(process.wait()) for process in processes]
        if ends:
            await asyncio.wait(ends, timeout=STOP_GRACE_S)
        for child in self.children.values():
            _kill(child)
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*ends, *self._watchers, return_exceptions=True)


def _kill(child: Child) -> None:
    if child.process is not None and child.process.returncode is None:
        child.process.send_signal(signal.SIGKILL)


def describe(status: int) -> str:
    """Return an exit status in words."""
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    return f"exited with status {status}"
