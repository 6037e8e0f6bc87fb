"""What happens to the daemon, as events of one queue: messages, ends of children, signals, time."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import dataclass
from pathlib import Path

from bros.brosd.fleet.supervisor import Exited
from bros.brosd.protocol import wire
from bros.brosd.protocol.sockets import Inbox


@dataclass(frozen=True)
class Tick:
    """A second has passed."""


@dataclass(frozen=True)
class StopSignal:
    """Somebody wants the daemon to end; with `now`, without waiting for requests."""

    now: bool


@dataclass(frozen=True)
class ReloadSignal:
    """Somebody changed the configuration."""


Event = wire.ToDaemon | Exited | Tick | StopSignal | ReloadSignal


class Events:
    """The queue, and what fills it once it is opened."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Event] = asyncio.Queue()
        self._inbox: Inbox[wire.ToDaemon] | None = None
        self._sources: list[asyncio.Task[None]] = []

    def open(self, path: Path, tick_s: float) -> None:
        """Listen at the socket `path`, to signals, and to the clock."""
        self._inbox = Inbox(path, wire.ToDaemon)
        loop = asyncio.get_running_loop()
        for number, event in (
            (signal.SIGTERM, StopSignal(now=False)),
            (signal.SIGINT, StopSignal(now=False)),
            (signal.SIGQUIT, StopSignal(now=True)),
            (signal.SIGHUP, ReloadSignal()),
        ):
            loop.add_signal_handler(number, self.post, event)
        self._sources = [
            asyncio.create_task(self._receive(self._inbox)),
            asyncio.create_task(self._tick(tick_s)),
        ]

    def post(self, event: Event) -> None:
        self._queue.put_nowait(event)

    async def next(self) -> Event:
        """Wait for an event."""
        return await self._queue.get()

    @property
    def waiting(self) -> bool:
        """Whether there is an event already."""
        return not self._queue.empty()

    def close(self) -> None:
        for source in self._sources:
            source.cancel()
        if self._inbox is not None:
            self._inbox.close()

    async def _receive(self, inbox: Inbox[wire.ToDaemon]) -> None:
        while True:
            self.post(await inbox.recv())

    async def _tick(self, tick_s: float) -> None:
        while True:
            await asyncio.sleep(tick_s)
            self.post(Tick())
