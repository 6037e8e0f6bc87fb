"""The URLs that generate text. A client that leaves aborts its request."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from bros.brosd.config import ServerConfig
from bros.brosd.tokenizer.generation.caller import note_caller
from bros.brosd.tokenizer.http.body import read_body
from bros.brosd.tokenizer.http.endpoint import JSON, Endpoint
from bros.brosd.tokenizer.http.event_stream import SSE, send_events
from bros.brosd.tokenizer.openai.errors import OpenAIError, error_response
from bros.brosd.tokenizer.openai.schema import ChatRequest, CompletionRequest
from bros.brosd.tokenizer.openai.service import (
    CHAT_URL,
    COMPLETIONS_URL,
    OpenAIService,
)

LINGER_S = 1.0


def generation_endpoints(api: OpenAIService, limits: ServerConfig) -> list[Endpoint]:
    """The endpoints that answer with a completion, whole or as a stream."""

    def endpoint(url: str, summary: str, body: type) -> Endpoint:
        generate = Generate(api, url, limits)
        return Endpoint("POST", url, generate, summary, body=body, answers=(JSON, SSE))

    return [
        endpoint(CHAT_URL, "The next message of a conversation", ChatRequest),
        endpoint(COMPLETIONS_URL, "The continuation of a text", CompletionRequest),
    ]


class Generate:
    """The ASGI application behind one URL that generates text."""

    def __init__(self, api: OpenAIService, url: str, limits: ServerConfig) -> None:
        self._api = api
        self._url = url
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        note_caller(request.headers)
        try:
            body = await read_body(
                request, self._limits.max_body_bytes, self._limits.body_timeout_s
            )
        except ClientDisconnect:
            return
        except OpenAIError as error:
            await _refuse_body(error, receive, send)
            return
        await _while_connected(receive, self._answer(body, scope, receive, send))

    async def _answer(self, body: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            answer = await self._api.handle(self._url, body)
        except OpenAIError as error:
            await error_response(error)(scope, receive, send)
            return
        if isinstance(answer, bytes):
            await Response(answer, media_type="application/json")(scope, receive, send)
        else:
            await send_events(answer, scope, receive, send)


async def _refuse_body(error: OpenAIError, receive: Receive, send: Send) -> None:
    """Answer before the body has come, then close the connection.

    Many clients read only when they have sent everything, and lose the answer if they are cut off
    before that: so what they send is thrown away for a moment.
    """
    response = error_response(error, {"connection": "close"})
    start = {"type": "http.response.start", "status": error.status, "headers": response.raw_headers}
    await send(start)
    await send({"type": "http.response.body", "body": error.body, "more_body": True})
    with suppress(TimeoutError):
        async with asyncio.timeout(LINGER_S):
            while (await receive()).get("more_body"):
                pass
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _while_connected(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Run `work`; cancel it when the client leaves."""
    worker = asyncio.create_task(work)
    watcher = asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait({worker, watcher}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (worker, watcher):
            task.cancel()
        results = await asyncio.gather(worker, watcher, return_exceptions=True)
    if isinstance(results[0], Exception) and not isinstance(results[0], ClientDisconnect):
        raise results[0]


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
