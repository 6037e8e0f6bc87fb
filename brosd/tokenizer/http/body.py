"""Read request bodies, bounded in size and in time, and in what all of them take together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
    content = bytearray()
    timeout = asyncio.timeout(timeout_s)
    try:
        with unfinished(request, timeout) as count:
            async with timeout:
                async for chunk in request.stream():
                    count(len(chunk))
                    content += chunk
                    if len(content) > max_bytes:
                        raise too_large(max_bytes)
    except TimeoutError:
        message = f"The body did not come within {timeout_s:.0f} s (server.body_timeout_s)"
        raise OpenAIError(408, message, param="body", code="timeout") from None
    return bytes(content)


@contextmanager
def unfinished(request: Request, timeout: asyncio.Timeout) -> Iterator[Callable[[int], None]]:
    """Give a function that counts bytes of the request's body as unfinished, within the block.

    It raises OpenAIError (429) if the body has to make room for others; so does the block, whose
    wait under `timeout` then ends.
    """
    bodies = cast(UnfinishedBodies, request.scope[UNFINISHED])
    body = Body(request.scope[CLIENT], timeout)
    bodies.begin(body)
    try:
        yield lambda num_bytes: bodies.add(body, num_bytes)
    except TimeoutError:
        if body.refused:
            raise too_many_bytes() from None
        raise
    finally:
        bodies.end(body)
