"""The ZeroMQ server for local clients: one ROUTER, any number of clients, a task per message.

A client that does not read holds up only its own answers; after a while it counts as gone.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec
import zmq
import zmq.asyncio

from bros.brosd.protocol.sockets import MALFORMED, encode, set_options
from bros.brosd.protocol.wire import (
    Cancel,
    FromClient,
    JobAck,
    JobCancel,
    JobFetch,
    JobList,
    JobPage,
    JobPut,
    Jobs,
    OpenAIRequest,
    Refused,
    Reply,
    Status,
    StatusQuery,
    ToClient,
)
from bros.brosd.tokenizer.descriptors import DescriptorBudget
from bros.brosd.tokenizer.generation.live_requests import LiveRequests
from bros.brosd.tokenizer.jobs.errors import StoreError
from bros.brosd.tokenizer.jobs.line_runner import BatchLineRunner
from bros.brosd.tokenizer.jobs.store import JobStore
from bros.brosd.tokenizer.local.listener import Listener
from bros.brosd.tokenizer.openai.errors import OpenAIError, of_store
from bros.brosd.tokenizer.openai.service import OpenAIService

log = logging.getLogger(__name__)

RETRY_SEND_S = 0.05
PATIENCE_S = 30.0  # how long a client whose queue is full is waited for


class ClientGoneError(Exception):
    """The client closed its socket, or stopped reading."""


class LocalServer:
    """Serves `client.sock`. No error ends it."""

    def __init__(
        self,
        path: Path,
        api: OpenAIService,
        live_requests: LiveRequests,
        store: JobStore,
        runner: BatchLineRunner,
    ) -> None:
        self._api = api
        self._live_requests = live_requests
        self._store = store
        self._runner = runner
        self._decoder = msgspec.msgpack.Decoder(FromClient)
        self._tasks: dict[tuple[bytes, int], asyncio.Task[None]] = {}
        self._socket: Any = zmq.asyncio.Context.instance().socket(zmq.ROUTER)
        set_options(self._socket)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)  # sending to nobody is an error
        self._listener = Listener(self._socket, path, DescriptorBudget())

    def close(self) -> None:
        self._listener.close()
        for task in self._tasks.values():
            task.cancel()
        self._socket.close()

    async def run(self) -> None:
        """Take messages until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listener.run())
            await self._receive()

    async def _receive(self) -> None:
        while True:
            identity, *frames = await self._socket.recv_multipart()
            try:
                message = self._decoder.decode(b"".join(frames))
            except MALFORMED as error:
                log.warning("event=bad_frame bytes=%d error=%r", sum(map(len, frames)), str(error))
                message = None
            self._start(identity, message)

    def _start(self, identity: bytes, message: FromClient | None) -> None:
        key = (identity, message.rid if message else 0)
        running = self._tasks.get(key)
        if isinstance(message, Cancel):
            if running:
                running.cancel()
        elif running is None:  # else it is a repetition: the first one will be answered
            task = asyncio.create_task(self._serve(identity, message))
            self._tasks[key] = task
            task.add_done_callback(lambda _: self._tasks.pop(key, None))

    async def _serve(self, identity: bytes, message: FromClient | None) -> None:
        rid = message.rid if message else 0
        try:
            if message is None:
                refusal = "not a message that this version of brosd knows"
                await self._send(identity, Refused(rid, "bad_message", refusal))
            elif isinstance(message, OpenAIRequest):
                await self._ask(identity, message)
            else:
                await self._send(identity, await self._answer(message))
        except ClientGoneError:
            log.info("event=client_gone rid=%d", rid)
        except Exception:
            log.exception("event=local_request_crashed rid=%d", rid)

    async def _ask(self, identity: bytes, ask: OpenAIRequest) -> None:
        """Answer an OpenAI request: one Reply, or one per chunk and an empty one."""
        try:
            answer = await self._api.handle(ask.url, ask.body)
            if isinstance(answer, bytes):
                await self._send(identity, Reply(ask.rid, 200, answer, last=True))
                return
            async with aclosing(answer.chunks) as chunks:
                async for chunk in chunks:
                    await self._send(identity, Reply(ask.rid, 200, chunk, last=False))
            await self._send(identity, Reply(ask.rid, 200, b"", last=True))
        except OpenAIError as error:
            await self._send(identity, Reply(ask.rid, error.status, error.body, last=True))

    async def _answer(
        self, message: JobPut | JobFetch | JobCancel | JobList | StatusQuery | Cancel
    ) -> ToClient:
        try:
            return await self._look_up(message)
        except StoreError as error:
            refusal = of_store(error)
            if refusal.status == 500:
                log.exception("event=jobs_failed")
            return Refused(message.rid, error.code, refusal.message)

    async def _look_up(
        self, message: JobPut | JobFetch | JobCancel | JobList | StatusQuery | Cancel
    ) -> ToClient:
        rid = message.rid
        match message:
            case JobPut():
                received = await self._store.put_lines(
                    message.job, message.first, message.lines, message.last
                )
                return JobAck(rid, received)
            case JobFetch():
                return JobPage(rid, *await self._store.page(message.job, message.after))
            case JobCancel():
                await self._runner.cancel(message.job)
                status = await self._store.status(message.job)
                return JobPage(rid, status, results=[], next=0)
            case JobList():
                return Jobs(rid, await self._store.statuses())
            case _:
                return Status(rid, self._live_requests.stats)

    async def _send(self, identity: bytes, message: ToClient) -> None:
        """Send a message to a client. Raise ClientGoneError if it left, or its queue stays full."""
        frames = [identity, encode(message)]
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + PATIENCE_S
        while True:
            try:
                await self._socket.send_multipart(frames, flags=zmq.NOBLOCK)
                return
            except zmq.Again:
                if loop.time() > deadline_s:
                    raise ClientGoneError from None
                await asyncio.sleep(RETRY_SEND_S)
            except zmq.ZMQError as error:
                if error.errno == errno.EHOSTUNREACH:
                    raise ClientGoneError from None
                raise
