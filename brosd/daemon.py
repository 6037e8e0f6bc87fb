"""The scheduler daemon: one loop that routes messages, runs the scheduler and supervises.

Events are handled one at a time, so no state here is ever touched by two tasks. A bug in the
handling of one event is logged and counted, and the loop goes on: only DaemonError ends it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bros.brosd.config import Config, ConfigError, reloaded, save
from bros.brosd.events import Event, Events, ReloadSignal, StopSignal, Tick
from bros.brosd.fleet.devices import DeviceGroup
from bros.brosd.fleet.fleet import Fleet
from bros.brosd.fleet.supervisor import Child, Exited, Supervisor
from bros.brosd.fleet.tokenizer_handle import TokenizerHandle
from bros.brosd.fleet.worker_handle import PoolTooSmall, WorkerHandle
from bros.brosd.protocol import wire
from bros.brosd.protocol.runtime_folder import config_file, daemon_socket, worker_name
from bros.brosd.stats import in_a_line, report
from bros.brosd.systemd import notify, watchdog_s

log = logging.getLogger(__name__)

TICK_S = 1.0
ReadConfig = Callable[[], Config]  # the configuration, read again from all its sources


class DaemonError(RuntimeError):
    """The daemon cannot serve; the text is one line for the operator."""


class Daemon:
    """Serves one model until it is told to stop. `run` raises DaemonError if it cannot.

    Its children read the configuration from the runtime folder, where it must have been saved.
    """

    def __init__(
        self,
        config: Config,
        model: Path,
        groups: Sequence[DeviceGroup],
        load: ReadConfig,
        restarts: int = 0,
    ) -> None:
        """Make one worker for each group of devices. `restarts`: of this daemon, until now."""
        self._config, self._load, self._restarts = config, load, restarts
        self._events = Events()
        self._supervisor = Supervisor(config.supervisor, self._events.post)
        self._fleet = Fleet(config, self._supervisor, model, groups)
        self._tokenizer = TokenizerHandle(config, self._supervisor, model)
        self._started_s = time.monotonic()
        self._scheduling_s = 0.0
        self._internal_errors = 0
        self._announced = False  # once all have been ready
        self._draining_since_s: float | None = None
        self._stopped = False

    # -- life ------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until stopped."""
        self._events.open(daemon_socket(self._config.runtime), min(TICK_S, watchdog_s() / 2))
        try:
            await self._tokenizer.start()
            await self._send_stats()
            for worker in self._fleet:
                await worker.start()
            while not self._stopped:
                await self._handle(await self._events.next())
                while self._events.waiting:
                    await self._handle(await self._events.next())
                await self._dispatch()
        finally:
            notify("STOPPING=1")
            await self._stop_children()
            self._events.close()

    async def _dispatch(self) -> None:
        for worker in self._fleet:
            with self._surviving("dispatch"):
                await worker.dispatch()

    @contextmanager
    def _surviving(self, what: str) -> Iterator[None]:
        """Log and count a bug, and go on."""
        try:
            yield
        except DaemonError:
            raise
        except Exception:
            self._internal_errors += 1
            log.exception("event=internal_error in=%s", what)

    async def _handle(self, event: Event) -> None:
        with self._surviving(type(event).__name__):
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
            await self._tokenizer.send(fail)

    async def _on_step_done(self, done: wire.StepDone) -> None:
        if not self._supervisor.current(worker_name(done.worker), done.generation):
            return  # the last words of a lost worker; its rows run again elsewhere
        worker = self._fleet[done.worker]
        began_s = time.perf_counter()
        try:
            messages = self._fleet.complete(done)
        except Exception:
            # Its requests are computed again: better than waiting for an iteration without end.
            self._supervisor.kill(worker.child, "the result of an iteration could not be used")
            raise
        await worker.dispatch()  # first: text can wait, an accelerator should not
        self._scheduling_s += time.perf_counter() - began_s
        for message in messages:
            await self._tokenizer.send(message)

    # -- children --------------------------------------------------------------------------------

    async def _on_child(
        self, event: wire.Hello | wire.Geometry | wire.Ready | wire.Heartbeat | wire.Fault
    ) -> None:
        peer = worker_name(event.worker) if isinstance(event, wire.Geometry) else event.peer
        child = self._supervisor.current(peer, event.generation)
        if child is None:
            return
        self._supervisor.note_beat(child)
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
                self._supervisor.note_fault(child, event.reason)
            case _:
                pass

    async def _on_ready(self, child: Child, ready: wire.Ready) -> None:
        self._supervisor.note_ready(child)
        if worker := self._fleet.find(child):
            worker.serve(ready.profile)
        elif self._draining_since_s is not None:
            await self._tokenizer.send(wire.Drain())
        first = not self._announced and self._tokenizer.ready and self._fleet.all_up
        self._announced = self._announced or first
        await self._send_stats()
        if first:
            url = self._config.server.url
            log.info("event=ready url=%s startup_s=%.1f", url, time.monotonic() - self._started_s)
            notify("READY=1", f"STATUS=serving {self._config.model.name} on {url}")

    async def _on_exited(self, event: Exited) -> None:
        child = self._supervisor.current(event.peer, event.generation)
        if child is None or self._stopped:
            return
        reason = self._supervisor.note_end(child, event.status)
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
        """Start it again, unless it died too often; its requests go on elsewhere at once."""
        with self._surviving("lose_worker"):
            for fail in self._fleet.lose(worker, for_good=for_good):
                await self._tokenizer.send(fail)
        await self._send_stats()
        if for_good:
            log.error("event=worker_given_up peer=%s", worker.child.peer)
            self._supervisor.forget(worker.child)
        else:
            await worker.start()

    async def _lose_tokenizer(self) -> None:
        """Start it again. Its streams are gone, so their requests end; batch lines come again."""
        with self._surviving("abort_all"):
            self._fleet.abort_all()
        await self._tokenizer.start()
        await self._send_stats()

    # -- the clock -------------------------------------------------------------------------------

    async def _on_tick(self) -> None:
        self._supervisor.kill_hung()
        for worker in self._fleet:
            worker.tick()
        if self._announced:
            notify("WATCHDOG=1")  # from the loop that schedules: if it hangs, so do all requests
        await self._send_stats()
        if self._draining_since_s is not None:
            drained_s = time.monotonic() - self._draining_since_s
            out_of_time = drained_s > self._config.server.drain_timeout_s
            self._stopped = out_of_time or (self._fleet.idle and drained_s > TICK_S)

    async def _send_stats(self) -> None:
        with self._surviving("stats"):
            stats = self._stats()
            if self._announced:
                notify(f"STATUS={in_a_line(stats)}")
            await self._tokenizer.send(stats)

    @property
    def _state(self) -> str:
        """After all workers have been ready once, one that serves is enough to be ready."""
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
            tokenizer_restarts=self._tokenizer.restarts,
            slo=wire.Slo(self._config.slo.ttft_s, self._config.slo.tpot_s),
            internal_errors=self._internal_errors,
            daemon_restarts=self._restarts,
        )
        return report(about, self._fleet)

    # -- reload and the end ----------------------------------------------------------------------

    async def _on_reload(self) -> None:
        """Take what can change live; keep everything else, and log that it needs a restart."""
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
            save(config, config_file(config.runtime))
            await self._tokenizer.send(wire.Reload())
            log.info("event=reloaded")
        finally:
            notify("READY=1")

    async def _on_stop_signal(self, event: StopSignal) -> None:
        if event.now or self._draining_since_s is not None or not self._announced:
            self._stopped = True
            return
        log.info("event=draining requests=%d", self._fleet.num_requests)
        self._draining_since_s = time.monotonic()
        notify("STATUS=draining")
        await self._tokenizer.send(wire.Drain())
        await self._send_stats()

    async def _stop_children(self) -> None:
        self._stopped = True
        await self._tokenizer.send(wire.Stop())
        for worker in self._fleet:
            await worker.stop()
        await self._supervisor.stop()
        self._tokenizer.close()
        for worker in self._fleet:
            worker.close()
        log.info("event=stopped")
