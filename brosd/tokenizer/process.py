"""The tokenizer process: wire its parts together, and do what the daemon says."""

from __future__ import annotations

import asyncio
import gc
import logging

from bros.brosd.api_keys import Keys, are_required
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
from bros.brosd.tokenizer.http.bodies import UnfinishedBodies
from bros.brosd.tokenizer.http.generate import generation_endpoints
from bros.brosd.tokenizer.http.origin_guard import guarded
from bros.brosd.tokenizer.http.request_id import RequestIdMiddleware
from bros.brosd.tokenizer.http.server import HttpServer, listen
from bros.brosd.tokenizer.http.server_routes import ServerRoutes
from bros.brosd.tokenizer.jobs.housekeeping import JobHousekeeping
from bros.brosd.tokenizer.jobs.line_runner import BatchLineRunner
from bros.brosd.tokenizer.jobs.sqlite.store import SqliteStore
from bros.brosd.tokenizer.jobs.store import JobStore
from bros.brosd.tokenizer.local.zmq_server import LocalServer
from bros.brosd.tokenizer.openai.prepare import Preparer
from bros.brosd.tokenizer.openai.service import OpenAIService

log = logging.getLogger(__name__)


class TokenizerProcess:
    """One incarnation of the tokenizer; `run` returns when the daemon sends Stop."""

    def __init__(self, config: Config, generation: int, codec: Codec, store: JobStore) -> None:
        self._config = config
        self._generation = generation
        self._store = store
        runtime = config.runtime
        self._inbox: Inbox[ToTokenizer] = Inbox(
            inbox_socket(runtime, TOKENIZER, generation), ToTokenizer
        )
        self._daemon: Outbox[ToDaemon] = Outbox(daemon_socket(runtime))
        self._tracer = Tracer(config.traces, config.model.name) if config.traces.endpoint else None
        on_end = self._tracer.record if self._tracer else lambda request, reason: None
        self._live_requests = LiveRequests(self._daemon, codec.decode, on_end)
        self._preparer = Preparer(codec, config.slo)
        api = OpenAIService(config, self._live_requests, self._preparer)
        self._runner = BatchLineRunner(store, api, self._live_requests, config.batch.window)
        self._local_server = LocalServer(
            client_socket(runtime), api, self._live_requests, store, self._runner
        )
        self._housekeeping = JobHousekeeping(store, self._runner)
        batches = BatchRoutes(
            store, self._runner, api, config.batch.max_file_bytes, config.server.body_timeout_s
        )
        endpoints = [
            *generation_endpoints(api, config.server),
            *batches.endpoints(),
            *ServerRoutes(api, self._live_requests, config.server).endpoints(),
        ]
        self._auth = AuthMiddleware(
            make_app(api, endpoints),
            Keys(config.state) if are_required(config) else None,
            config.server.max_requests_per_key,
            [endpoint.path for endpoint in endpoints if not endpoint.needs_key],
            UnfinishedBodies(
                config.server.max_unfinished_bytes, config.server.max_unfinished_bytes_per_client
            ),
        )
        forms = [endpoint.path for endpoint in endpoints if endpoint.form]
        door = guarded(self._auth, config.server, are_required(config), forms)
        self._http = HttpServer(RequestIdMiddleware(door), config.server)

    async def run(self) -> None:
        """Serve until told to stop. Raise ListenError if the HTTP address cannot be used."""
        http_socket = listen(self._config.server)
        host, port = http_socket.getsockname()[:2]
        log.info("event=listening host=%s port=%d", host, port)
        gc.collect()
        gc.freeze()  # the vocabulary stays: no collection needs to walk it again
        async with asyncio.TaskGroup() as tasks:
            jobs = tasks.create_task(self._runner.run())
            housekeeping = tasks.create_task(self._housekeeping.run())
            local = tasks.create_task(self._local_server.run())
            http = tasks.create_task(self._http.serve(sockets=[http_socket]))
            await self._daemon.send(Ready(TOKENIZER, self._generation))
            await self._obey(jobs)
            jobs.cancel()
            await asyncio.wait({jobs})
            self._live_requests.fail_all()
            self._http.should_exit = True
            await asyncio.wait({http})
            local.cancel()
            housekeeping.cancel()
        if self._tracer:
            await asyncio.to_thread(self._tracer.close)
        await self._store.close()
        await self._preparer.close()
        self._local_server.close()

    async def _obey(self, jobs: asyncio.Task[None]) -> None:
        """Do what the daemon says until it says stop."""
        while True:
            match await self._inbox.recv():
                case Emit() as emit:
                    await self._live_requests.on_emit(emit)
                case Fail() as fail:
                    self._live_requests.on_fail(fail)
                case Stats() as stats:
                    self._live_requests.on_stats(stats)
                case Drain():
                    log.info("event=draining")
                    self._live_requests.drain()
                    jobs.cancel()
                case Reload():
                    self._reload()
                case Stop():
                    return

    def _reload(self) -> None:
        """Take from the daemon's configuration what may change while it runs."""
        config = restore(config_file(self._config.runtime))
        logging.getLogger().setLevel(config.log.level.upper())
        self._preparer.slo = config.slo
        self._auth.max_requests_per_key = config.server.max_requests_per_key
        log.info("event=reloaded")


async def run(config: Config, generation: int, codec: Codec) -> None:
    """Run the process on a loaded tokenizer."""
    store = await SqliteStore.open(config.state, config.batch)
    await TokenizerProcess(config, generation, codec, store).run()
