"""The tokenizer process: wires its parts together, and does what the daemon says."""

from __future__ import annotations

import asyncio
import gc
import logging

from bros.brosd.api_keys import KeyFileError, Keys, are_required
from bros.brosd.config import Config, restore
from bros.brosd.protocol.runtime_folder import (
    TOKENIZER,
    client_socket,
    config_file,
    daemon_socket,
    inbox_socket,
)
from bros.brosd.protocol.sockets import Inbox, Outbox
from bros.brosd.protocol.wire import (
    Drain,
    Emit,
    Fail,
    Ready,
    Reload,
    Stats,
    Stop,
    ToDaemon,
    ToTokenizer,
)
from bros.brosd.tokenizer.generation.codec import Codec
from bros.brosd.tokenizer.generation.live_requests import LiveRequests
from bros.brosd.tokenizer.generation.traces import Tracer
from bros.brosd.tokenizer.http.app import make_app
from bros.brosd.tokenizer.http.auth import AuthMiddleware
from bros.brosd.tokenizer.http.batch_routes import BatchRoutes
from bros.brosd.tokenizer.http.server import HttpServer, listen
from bros.brosd.tokenizer.jobs.async_store import AsyncJobStore
from bros.brosd.tokenizer.jobs.housekeeping import JobHousekeeping
from bros.brosd.tokenizer.jobs.line_runner import BatchLineRunner
from bros.brosd.tokenizer.local.zmq_server import LocalServer
from bros.brosd.tokenizer.openai.prepare import Preparer
from bros.brosd.tokenizer.openai.service import OpenAIService

log = logging.getLogger(__name__)


class TokenizerProcess:
    """One incarnation of the tokenizer; `run` returns when the daemon says Stop."""

    def __init__(
        self, config: Config, generation: int, codec: Codec, keeper: AsyncJobStore
    ) -> None:
        self._config = config
        self._generation = generation
        self._keeper = keeper
        runtime = config.runtime
        self._inbox: Inbox[ToTokenizer] = Inbox(
            inbox_socket(runtime, TOKENIZER, generation), ToTokenizer
        )
        self._daemon: Outbox[ToDaemon] = Outbox(daemon_socket(runtime))
        self._tracer = Tracer(config.traces, config.model.name) if config.traces.endpoint else None
        on_end = self._tracer.over if self._tracer else lambda generation, reason: None
        self._engine = LiveRequests(self._daemon, codec.decode, on_end)
        self._preparer = Preparer(codec, config.slo)
        api = OpenAIService(config, self._engine, self._preparer)
        self._runner = BatchLineRunner(keeper, api, self._engine, config.batch.window)
        self._edge = LocalServer(client_socket(runtime), api, self._engine, keeper, self._runner)
        self._caretaker = JobHousekeeping(keeper, self._runner)
        batches = BatchRoutes(
            keeper, self._runner, api, config.batch.max_file_bytes, config.server.body_timeout_s
        )
        self._guard = AuthMiddleware(
            make_app(api, self._engine, batches, config.server),
            Keys(config.state) if are_required(config) else None,
            config.server.max_requests_per_key,
        )
        self._http = HttpServer(self._guard, config.server.header_timeout_s)

    async def run(self) -> None:
        """Serve until told to stop. Raises ListenError."""
        http_socket = listen(self._config.server)
        host, port = http_socket.getsockname()[:2]
        log.info("event=listening host=%s port=%d", host, port)
        gc.collect()
        gc.freeze()  # the vocabulary stays: no collection needs to walk it again
        async with asyncio.TaskGroup() as tasks:
            jobs = tasks.create_task(self._runner.run())
            care = tasks.create_task(self._caretaker.run())
            edge = tasks.create_task(self._edge.run())
            http = tasks.create_task(self._http.serve(sockets=[http_socket]))
            await self._daemon.send(Ready(TOKENIZER, self._generation))
            await self._obey(jobs)
            jobs.cancel()
            await asyncio.wait({jobs})
            self._engine.fail_all()
            self._http.should_exit = True
            await asyncio.wait({http})
            edge.cancel()
            care.cancel()
        if self._tracer:
            await asyncio.to_thread(self._tracer.close)
        await self._keeper.close()
        self._preparer.close()
        self._edge.close()

    async def _obey(self, jobs: asyncio.Task[None]) -> None:
        """Do what the daemon says, until that is to stop."""
        while True:
            match await self._inbox.recv():
                case Emit() as emit:
                    await self._engine.on_emit(emit)
                case Fail() as fail:
                    self._engine.on_fail(fail)
                case Stats() as stats:
                    self._engine.on_stats(stats)
                case Drain():
                    log.info("event=draining")
                    self._engine.drain()
                    jobs.cancel()
                case Reload():
                    self._reload()
                case Stop():
                    return

    def _reload(self) -> None:
        """Take from the daemon's configuration what may change while it runs; and the keys."""
        config = restore(config_file(self._config.runtime))
        logging.getLogger().setLevel(config.log.level.upper())
        self._preparer.slo = config.slo
        self._guard.max_requests_per_key = config.server.max_requests_per_key
        if self._guard.keys is not None:
            try:
                self._guard.keys = Keys(config.state)
            except KeyFileError as error:
                log.error("event=keys_not_reloaded error=%r", str(error))
        log.info("event=reloaded")


async def run(config: Config, generation: int, codec: Codec) -> None:
    """Run the process on a loaded tokenizer."""
    keeper = await AsyncJobStore.open(config.state, config.batch)
    await TokenizerProcess(config, generation, codec, keeper).run()
