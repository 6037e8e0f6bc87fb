"""The ASGI application: endpoints on starlette, and errors as OpenAI's clients know them."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bros.brosd.tokenizer.http.endpoint import Endpoint
from bros.brosd.tokenizer.http.openapi import document
from bros.brosd.tokenizer.jobs.errors import StoreError
from bros.brosd.tokenizer.openai.errors import (
    OpenAIError,
    error_response,
    internal,
    no_such_url,
    of_store,
)
from bros.brosd.tokenizer.openai.service import OpenAIService


def make_app(api: OpenAIService, endpoints: Sequence[Endpoint]) -> Starlette:
    """Serve the endpoints, and their description as `/openapi.json`."""

    async def openapi(request: Request) -> Response:
        return JSONResponse(document(endpoints, api.model))

    return Starlette(
        routes=[
            *(endpoint.route for endpoint in endpoints),
            Route("/openapi.json", openapi),
        ],
        exception_handlers={
            HTTPException: _on_http_error,
            OpenAIError: _on_api_error,
            StoreError: _on_store_error,
            ClientDisconnect: _on_disconnect,
            Exception: _on_crash,
        },
    )


async def _on_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, OpenAIError)
    return error_response(error)


async def _on_store_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, StoreError)
    return error_response(of_store(error))


async def _on_disconnect(request: Request, error: Exception) -> Response:
    """Nobody reads the answer; without one, each client that leaves would be a traceback."""
    return Response(status_code=400)


async def _on_crash(request: Request, error: Exception) -> Response:
    """Answer for a mistake of ours; uvicorn logs its traceback."""
    return error_response(internal())


async def _on_http_error(request: Request, error: Exception) -> Response:
    """starlette's 404 and 405 as OpenAI errors."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return error_response(no_such_url(request.url.path))
    message = f"{request.method} does not go with {request.url.path}"
    method = OpenAIError(error.status_code, message, param="method", code="wrong_method")
    return error_response(method, dict(error.headers or {}))
