"""Server-sent events: the chunks of an answer, and comments while there are none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

from starlette.types import Receive, Scope, Send

from bros.brosd.tokenizer.openai.errors import OpenAIError, error_response
from bros.brosd.tokenizer.openai.service import EventStream

HEADER_WAIT_S = 1.0  # a refusal that comes within it has an HTTP status of its own
COMMENT_EVERY_S = 15.0  # proxies give up on a connection that is silent, many after 60 s
COMMENT = b": waiting\n\n"
END = b"[DONE]"
SSE = "text/event-stream"
HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


async def send_events(stream: EventStream, scope: Scope, receive: Receive, send: Send) -> None:
    """Send the chunks of an answer as events; an error on the way is an event too."""
    async with aclosing(stream.chunks) as chunks:
        first = asyncio.ensure_future(anext(chunks, b""))
        async with _ended(first):
            await asyncio.wait({first}, timeout=HEADER_WAIT_S)
            if first.done() and isinstance(error := first.exception(), OpenAIError):
                await error_response(error)(scope, receive, send)
                return
            await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
            events = _Events(send)
            async with _ended(asyncio.create_task(events.comment_while_silent())):
                try:
                    await events.emit(await first)
                    async for chunk in chunks:
                        await events.emit(chunk)
                except OpenAIError as error:
                    await events.emit(error.body)
            await events.emit(END)
            await send({"type": "http.response.body", "body": b"", "more_body": False})


class _Events:
    """Writes events, and comments between those that are far apart."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._sent_s = self._loop.time()

    async def emit(self, content: bytes) -> None:
        await self._write(b"data: " + content + b"\n\n")

    async def comment_while_silent(self) -> None:
        """Write a comment whenever nothing was written for a while; until cancelled."""
        while True:
            wait_s = self._sent_s + COMMENT_EVERY_S - self._loop.time()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            else:
                await self._write(COMMENT)

    async def _write(self, event: bytes) -> None:
        self._sent_s = self._loop.time()
        await self._send({"type": "http.response.body", "body": event, "more_body": True})


@asynccontextmanager
async def _ended(task: asyncio.Future[Any]) -> AsyncIterator[None]:
    """Cancel the task at the end of the block, and wait until it is over."""
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
