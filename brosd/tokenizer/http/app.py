"""The HTTP front door: OpenAI's URLs on starlette. A client that leaves aborts its request."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Coroutine
from contextlib import aclosing, suppress
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from bros.brosd.config import ServerConfig
from bros.brosd.tokenizer.generation.live_requests import LiveRequests
from bros.brosd.tokenizer.generation.traces import note_caller
from bros.brosd.tokenizer.http.batch_routes import BatchRoutes, as_api_error
from bros.brosd.tokenizer.http.body import read_body
from bros.brosd.tokenizer.http.metrics import CONTENT_TYPE, render
from bros.brosd.tokenizer.http.openapi import document
from bros.brosd.tokenizer.jobs.async_store import DiskFullError
from bros.brosd.tokenizer.jobs.files import FileError
from bros.brosd.tokenizer.jobs.job import JobError
from bros.brosd.tokenizer.openai.errors import OpenAIError, error_response, internal, no_such_url
from bros.brosd.tokenizer.openai.service import URLS, EventStream, OpenAIService

log = logging.getLogger(__name__)

LINGER_S = 1.0
STORE_ERRORS = (JobError, FileError, DiskFullError, OSError, sqlite3.Error)
SSE_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


def make_app(
    api: OpenAIService, engine: LiveRequests, batches: BatchRoutes, limits: ServerConfig
) -> Starlette:
    """The ASGI application."""

    async def models(request: Request) -> Response:
        return JSONResponse(api.models())

    async def model(request: Request) -> Response:
        return JSONResponse(api.describe(request.path_params["model"]))

    async def ready(request: Request) -> Response:
        engine.check_ready()
        return JSONResponse({"status": "ready"})

    async def health(request: Request) -> Response:
        return JSONResponse({"status": engine.state}, 200 if engine.state == "ready" else 503)

    async def metrics(request: Request) -> Response:
        return Response(render(engine.stats, engine.ends), media_type=CONTENT_TYPE)

    async def tokenize(request: Request) -> Response:
        return JSONResponse(await api.tokenize(await _body(request)))

    async def detokenize(request: Request) -> Response:
        return JSONResponse(await api.detokenize(await _body(request)))

    async def _body(request: Request) -> bytes:
        return await read_body(request, limits.max_body_bytes, limits.body_timeout_s)

    async def openapi(request: Request) -> Response:
        return JSONResponse(document(api.model))

    posts = [Route(url, Generate(api, url, limits), methods=["POST"], name=url) for url in URLS]
    return Starlette(
        routes=[
            *posts,
            *batches.routes(),
            Route("/v1/models", models),
            Route("/v1/models/{model:path}", model),
            Route("/health", health),
            Route("/ready", ready),
            Route("/tokenize", tokenize, methods=["POST"]),
            Route("/detokenize", detokenize, methods=["POST"]),
            Route("/openapi.json", openapi),
            Route("/metrics", metrics),
        ],
        exception_handlers={
            HTTPException: _on_http_error,
            **dict.fromkeys((OpenAIError, *STORE_ERRORS), _on_api_error),
            Exception: _on_crash,
        },
    )


class Generate:
    """The ASGI endpoint of one URL that generates text."""

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
            await _send_events(answer, _bounded(send, self._limits.send_timeout_s))


def _bounded(send: Send, timeout_s: float) -> Send:
    """`send`, which gives a client up that does not read."""

    async def bounded(message: Message) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await send(message)
        except TimeoutError:
            log.info("event=slow_client")
            raise ClientDisconnect from None

    return bounded


async def _send_events(stream: EventStream, send: Send) -> None:
    """Server-sent events, with an event for an error on the way."""

    async def emit(data: bytes) -> None:
        event = b"data: " + data + b"\n\n"
        await send({"type": "http.response.body", "body": event, "more_body": True})

    async with aclosing(stream.rest):
        await send({"type": "http.response.start", "status": 200, "headers": SSE_HEADERS})
        await emit(stream.first)
        try:
            async for chunk in stream.rest:
                await emit(chunk)
        except OpenAIError as error:
            await emit(error.body)
        await emit(b"[DONE]")
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _refuse_body(error: OpenAIError, receive: Receive, send: Send) -> None:
    """Answer before the body has come, then close the connection.

    Many clients read only when they have sent all, and lose the answer if they are cut off before:
    so what they send is thrown away for a moment.
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


async def _on_api_error(request: Request, error: Exception) -> Response:
    known = error if isinstance(error, OpenAIError) else as_api_error(error)
    if known is None:
        raise error
    return error_response(known)


async def _on_crash(request: Request, error: Exception) -> Response:
    """A mistake of ours; uvicorn logs its traceback."""
    return error_response(internal())


async def _on_http_error(request: Request, error: Exception) -> Response:
    """starlette's 404 and 405 as OpenAI errors."""
    if not isinstance(error, HTTPException):
        raise error
    if error.status_code == 404:
        return error_response(no_such_url(request.url.path))
    message = f"{request.method} does not go with {request.url.path}"
    method = OpenAIError(error.status_code, message, param="method", code="wrong_method")
    return error_response(method, dict(error.headers or {}))
