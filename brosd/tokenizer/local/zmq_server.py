"""The ZeroMQ front door for local clients: one ROUTER, any number of clients, a task per message.

A client that does not read holds up only its own answers, for a while; then it counts as gone.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import sqlite3
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec
import zmq
import zmq.asyncio

from bros.brosd.protocol.sockets import MALFORMED, encode, ipc, set_options
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
from bros.brosd.tokenizer.generation.live_requests import LiveRequests
from bros.brosd.tokenizer.jobs.async_store import AsyncJobStore, DiskFullError
from bros.brosd.tokenizer.jobs.job import JobError
from bros.brosd.tokenizer.jobs.line_runner import BatchLineRunner
from bros.brosd.tokenizer.openai.errors import OpenAIError
from bros.brosd.tokenizer.openai.service import OpenAIService

log = logging.getLogger(__name__)

RETRY_SEND_S = 0.05
PATIENCE_S = 30.0  # with a client whose queue is full


class ClientGoneError(Exception):
    """The client closed its socket, or stopped to read."""


class LocalServer:
    """Serves `client.sock`. Errors never end it."""

    def __init__(
        self,
        path: Path,
        api: OpenAIService,
        engine: LiveRequests,
        keeper: AsyncJobStore,
        runner: BatchLineRunner,
    ) -> None:
        self._api = api
        self._engine = engine
        self._keeper = keeper
        self._runner = runner
        self._decoder = msgspec.msgpack.Decoder(FromClient)
        self._tasks: dict[tuple[bytes, int], asyncio.Task[None]] = {}
        path.unlink(missing_ok=True)
        self._socket: Any = zmq.asyncio.Context.instance().socket(zmq.ROUTER)
        set_options(self._socket)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)  # sending to nobody is an error
        self._socket.bind(ipc(path))

    def close(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        self._socket.close()

    async def run(self) -> None:
        """Take messages for ever."""
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
        elif running is None:  # else a repetition: the first one will be answered
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
            log.exception("event=edge_crashed rid=%d", rid)

    async def _ask(self, identity: bytes, ask: OpenAIRequest) -> None:
        """Answer an OpenAI request: one Reply, or one per chunk and an empty one."""
        try:
            answer = await self._api.handle(ask.url, ask.body)
            if isinstance(answer, bytes):
                await self._send(identity, Reply(ask.rid, 200, answer, last=True))
                return
            async with aclosing(answer.rest):
                await self._send(identity, Reply(ask.rid, 200, answer.first, last=False))
                async for chunk in answer.rest:
                    await self._send(identity, Reply(ask.rid, 200, chunk, last=False))
            await self._send(identity, Reply(ask.rid, 200, b"", last=True))
        except OpenAIError as error:
            await self._send(identity, Reply(ask.rid, error.status, error.body, last=True))

    async def _answer(
        self, message: JobPut | JobFetch | JobCancel | JobList | StatusQuery | Cancel
    ) -> ToClient:
        try:
            return await self._look_up(message)
        except JobError as error:
            return Refused(message.rid, error.code, str(error))
        except DiskFullError as error:
            return Refused(message.rid, "disk_full", str(error))
        except sqlite3.Error as error:
            log.exception("event=jobs_failed")
            return Refused(message.rid, "storage_failed", f"batch jobs cannot be stored: {error}")

    async def _look_up(
        self, message: JobPut | JobFetch | JobCancel | JobList | StatusQuery | Cancel
    ) -> ToClient:
        rid = message.rid
        match message:
            case JobPut():
                received = await self._keeper.put(
                    message.job, message.first, message.lines, message.last
                )
                return JobAck(rid, received)
            case JobFetch():
                return JobPage(rid, *await self._keeper.fetch(message.job, message.after))
            case JobCancel():
                await self._runner.cancel(message.job)
                status = await self._keeper.call(self._keeper.jobs.status, message.job)
                return JobPage(rid, status, results=[], next=0)
            case JobList():
                return Jobs(rid, await self._keeper.call(self._keeper.jobs.statuses))
            case _:
                return Status(rid, self._engine.stats)

    async def _send(self, identity: bytes, message: ToClient) -> None:
        """Give a message to a client. ClientGoneError if it left, or has been full for long."""
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
