"""Read request bodies, bounded in size and in time, and in what all of them take together."""

from __future__ import annotations

import asyncio
from typing import cast

from starlette.requests import Request

from bros.brosd.tokenizer.http.bodies import Body, UnfinishedBodies, too_many_bytes
from bros.brosd.tokenizer.openai.errors import OpenAIError, too_large

UNFINISHED = "bros.unfinished_bodies"  # in a request's scope, with the client's name
CLIENT = "bros.client"


async def read_body(request: Request, max_bytes: int, timeout_s: float) -> bytes:
    """Return the body. Raise OpenAIError as soon as it is too large (413) or too slow (408), or
    if it has to make room for others (429).
    """
    if int(request.headers.get("content-length", 0)) > max_bytes:
        raise too_large(max_bytes)
    bodies = cast(UnfinishedBodies, request.scope[UNFINISHED])
    timeout = asyncio.timeout(timeout_s)
    body = Body(request.scope[CLIENT], timeout)
    bodies.begin(body)
    try:
        async with timeout:
            async for chunk in request.stream():
                bodies.add(body, chunk)
                if len(body.content) > max_bytes:
                    raise too_large(max_bytes)
        return bytes(body.content)
    except TimeoutError:
        if body.refused:
            raise too_many_bytes() from None
        message = f"The body did not come within {timeout_s:.0f} s (server.body_timeout_s)"
        raise OpenAIError(408, message, param="body", code="timeout") from None
    finally:
        bodies.end(body)
