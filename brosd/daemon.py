"""The scheduler daemon: one inbox, one loop. Routes messages, runs the scheduler, supervises.

Everything that happens, messages, ends of processes, signals and the clock, becomes an event in
one queue, handled one at a time: no state here is ever touched by two tasks.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bros.brosd.config import Config, ConfigError, reloaded, save
from bros.brosd.fleet.devices import DeviceGroup
from bros.brosd.fleet.fleet import Fleet
from bros.brosd.fleet.supervisor import Child, Exited, Supervisor, describe
from bros.brosd.fleet.worker_handle import PoolTooSmall, WorkerHandle
from bros.brosd.protocol import wire
from bros.brosd.protocol.sockets import Inbox, Outbox
from bros.brosd.stats import report
from bros.brosd.systemd import notify, watchdog_s

log = logging.getLogger(__name__)

TICK_S = 1.0
TOKENIZER = "tokenizer"


class DaemonError(RuntimeError):
    """The daemon cannot serve; the text is one line for the operator."""


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
ReadConfig = Callable[[], Config]  # the configuration, read again from all its sources


class Daemon:
    """Serves one model until it is told to stop. `run` raises DaemonError if it cannot."""

    def __init__(
        self, config: Config, model: Path, groups: Sequence[DeviceGroup], load: ReadConfig
    ) -> None:
        """One worker for each group of devices."""
        self._config = config
        self._load = load
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._supervisor = Supervisor(config.supervisor, self._events.put_nowait)
        self._fleet = Fleet(config, self._supervisor, model, groups)
        arguments = ["--runtime-dir", str(config.runtime), "--model", str(model)]
        self._tokenizer = Child(TOKENIZER, "bros.brosd.tokenizer", arguments)
        self._to_tokenizer: Outbox[wire.ToTokenizer] | None = None
        self._started_s = time.monotonic()
        self._scheduling_s = 0.0
        self._announced = False
        self._draining_since_s: float | None = None
        self._stopped = False

    # -- life ------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until stopped."""
        save(self._config, self._config.runtime / "config.json")
        inbox: Inbox[wire.ToDaemon] = Inbox(self._config.runtime / "daemon.sock", wire.ToDaemon)
        self._catch_signals()
        sources = [
            asyncio.create_task(self._receive(inbox)),
            asyncio.create_task(self._tick()),
        ]
        try:
            await self._start_tokenizer()
            for worker in self._fleet:
                await worker.start()
            while not self._stopped:
                await self._handle(await self._events.get())
                while not self._events.empty():
                    await self._handle(self._events.get_nowait())
                await self._fleet.dispatch()
        finally:
            notify("STOPPING=1")
            await self._stop_children()
            for source in sources:
                source.cancel()
            inbox.close()

    def _catch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number, now in (
            (signal.SIGTERM, False),
            (signal.SIGINT, False),
            (signal.SIGQUIT, True),
        ):
            loop.add_signal_handler(number, self._events.put_nowait, StopSignal(now))
        loop.add_signal_handler(signal.SIGHUP, self._events.put_nowait, ReloadSignal())

    async def _receive(self, inbox: Inbox[wire.ToDaemon]) -> None:
        while True:
            self._events.put_nowait(await inbox.recv())

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(min(TICK_S, watchdog_s() / 2))
            self._events.put_nowait(Tick())

    async def _handle(self, event: Event) -> None:
        match event:
            case wire.StepDone():
                await self._on_step_done(event)
            case wire.Admit():
                await self._on_admit(event)
            case wire.Abort():
                self._fleet.abort(event.rid)
            case Tick():
                await self._on_tick()
            case Exited():
                await self._on_exited(event)
            case ReloadSignal():
                await self._on_reload()
            case StopSignal():
                await self._on_stop_signal(event)
            case _:
                await self._on_child(event)

    # -- requests --------------------------------------------------------------------------------

    async def _on_admit(self, admit: wire.Admit) -> None:
        if fail := self._fleet.admit(admit):
            await self._tell_tokenizer(fail)

    async def _on_step_done(self, done: wire.StepDone) -> None:
        worker = self._fleet[done.worker]
        if not self._supervisor.current(worker.child.peer, done.generation):
            return  # the last words of a lost worker; its rows run again elsewhere
        began_s = time.perf_counter()
        emit = self._fleet.complete(done)
        await worker.dispatch()  # first: text can wait, an accelerator should not
        self._scheduling_s += time.perf_counter() - began_s
        if emit is not None:
            await self._tell_tokenizer(emit)

    # -- children --------------------------------------------------------------------------------

    async def _start_tokenizer(self) -> None:
        await self._supervisor.start(self._tokenizer)
        name = f"{TOKENIZER}.{self._tokenizer.generation}.sock"
        self._to_tokenizer = Outbox(self._config.runtime / name)
        await self._tell_tokenizer(self._stats())

    async def _on_child(
        self, event: wire.Hello | wire.Geometry | wire.Ready | wire.Heartbeat | wire.Fault
    ) -> None:
        peer = f"worker-{event.worker}" if isinstance(event, wire.Geometry) else event.peer
        child = self._supervisor.current(peer, event.generation)
        if child is None:
            return
        child.beat_s = time.monotonic()
        match event:
            case wire.Hello() if event.wire != wire.WIRE_VERSION:
                raise DaemonError(
                    f"{peer} speaks version {event.wire}, not {wire.WIRE_VERSION}: reinstall brosd"
                )
            case wire.Geometry():
                try:
                    await self._fleet[event.worker].make_table(event)
                except PoolTooSmall as error:
                    raise DaemonError(str(error)) from None
            case wire.Ready():
                await self._on_ready(child, event)
            case wire.Fault():
                child.reason = event.reason
                log.error("event=fault peer=%s reason=%r", peer, event.reason)
            case _:
                pass

    async def _on_ready(self, child: Child, ready: wire.Ready) -> None:
        child.ready = child.served = True
        log.info("event=child_ready peer=%s generation=%d", child.peer, child.generation)
        if worker := self._fleet.find(child):
            worker.serve(ready.profile)
        elif self._draining_since_s is not None:
            await self._tell_tokenizer(wire.Drain())
        await self._tell_tokenizer(self._stats())
        if not self._announced and self._tokenizer.ready and self._fleet.all_up:
            self._announced = True
            await self._tell_tokenizer(self._stats())
            server = self._config.server
            url = f"http://{server.host}:{server.port}"
            log.info("event=ready url=%s startup_s=%.1f", url, time.monotonic() - self._started_s)
            notify("READY=1", f"STATUS=serving {self._config.model.name} on {url}")

    async def _on_exited(self, event: Exited) -> None:
        child = self._supervisor.current(event.peer, event.generation)
        if child is None or self._stopped:
            return
        child.ready = False
        reason = child.reason or describe(event.status)
        log.error("event=child_lost peer=%s reason=%r", child.peer, reason)
        may_restart = self._supervisor.may_restart(child)
        worker = self._fleet.find(child)
        if not may_restart and (
            worker is None or not self._announced or self._fleet.is_last(worker)
        ):
            raise DaemonError(f"{child.peer}: {reason}")
        if worker is None:
            await self._lose_tokenizer()
        else:
            await self._lose_worker(worker, for_good=not may_restart)

    async def _lose_worker(self, worker: WorkerHandle, *, for_good: bool) -> None:
        """Start it again, unless it has died too often; its requests go on at once elsewhere."""
        for fail in self._fleet.lose(worker, for_good=for_good):
            await self._tell_tokenizer(fail)
        await self._tell_tokenizer(self._stats())
        if for_good:
            log.error("event=worker_given_up peer=%s", worker.child.peer)
            self._supervisor.forget(worker.child)
        else:
            await worker.start()

    async def _lose_tokenizer(self) -> None:
        if self._to_tokenizer is not None:
            self._to_tokenizer.close()
        self._fleet.abort_all()  # their streams are gone; batch lines come again
        await self._start_tokenizer()

    async def _tell_tokenizer(self, message: wire.ToTokenizer) -> None:
        if self._to_tokenizer is not None:
            await self._to_tokenizer.send(message)

    # -- the clock -------------------------------------------------------------------------------

    async def _on_tick(self) -> None:
        self._supervisor.kill_hung()
        for worker in self._fleet:
            worker.tick()
        stats = self._stats()
        if self._announced:
            # From the loop that schedules, so that it stops if that one does.
            notify("WATCHDOG=1", f"STATUS={_in_a_line(stats)}")
        await self._tell_tokenizer(stats)
        if self._draining_since_s is not None:
            drained_s = time.monotonic() - self._draining_since_s
            out_of_time = drained_s > self._config.server.drain_timeout_s
            self._stopped = out_of_time or (self._fleet.idle and drained_s > TICK_S)

    @property
    def _state(self) -> str:
        """Once all workers have been ready, any of them will do."""
        if self._draining_since_s is not None:
            return "draining"
        up = self._announced and self._fleet.any_up
        return "ready" if up and self._tokenizer.ready else "starting"

    def _stats(self) -> wire.Stats:
        about = wire.Stats(
            state=self._state,
            model=self._config.model.name,
            policy=self._config.scheduler.policy,
            uptime_s=time.monotonic() - self._started_s,
            scheduling_s=self._scheduling_s,
            tokenizer_restarts=max(0, self._tokenizer.generation - 1),
            slo=wire.Slo(self._config.slo.ttft_s, self._config.slo.tpot_s),
        )
        return report(about, self._fleet)

    async def _on_reload(self) -> None:
        """Take what can change live; keep all else, and say so."""
        notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            config, ignored = reloaded(self._config, self._load())
        except ConfigError as error:
            log.error("event=not_reloaded error=%r", str(error))
        else:
            for key in ignored:
                log.warning("event=needs_restart key=%s", key)
            self._config = config
            logging.getLogger().setLevel(config.log.level.upper())
            save(config, config.runtime / "config.json")
            await self._tell_tokenizer(wire.Reload())
            log.info("event=reloaded")
        notify("READY=1")

    # -- the end ---------------------------------------------------------------------------------

    async def _on_stop_signal(self, event: StopSignal) -> None:
        if event.now or self._draining_since_s is not None or not self._announced:
            self._stopped = True
            return
        log.info("event=draining requests=%d", self._fleet.num_requests)
        self._draining_since_s = time.monotonic()
        notify("STATUS=draining")
        await self._tell_tokenizer(wire.Drain())
        await self._tell_tokenizer(self._stats())

    async def _stop_children(self) -> None:
        self._stopped = True
        await self._tell_tokenizer(wire.Stop())
        for worker in self._fleet:
            await worker.stop()
        await self._supervisor.stop()
        for worker in self._fleet:
            worker.close()
        log.info("event=stopped")


def _in_a_line(stats: wire.Stats) -> str:
    """The daemon for `systemctl status`."""
    rt, be = stats.rt, stats.be
    return (
        f"{stats.state}: {rt.running}+{be.running} requests running (real-time+best-effort), "
        f"{rt.waiting}+{be.waiting} waiting"
    )
