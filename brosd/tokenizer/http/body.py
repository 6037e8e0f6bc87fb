"""Read request bodies, bounded in size and in time."""

from __future__ import annotations

import asyncio

from starlette.requests import Request

from bros.brosd.tokenizer.openai.errors import OpenAIError, too_large


async def read_body(request: Request, max_bytes: int, timeout_s: float) -> bytes:
    """Return the body. Raise OpenAIError (413, 408) as soon as it is too large or too slow."""
    if int(request.headers.get("content-length", 0)) > max_bytes:
        raise too_large(max_bytes)
    body = bytearray()
    try:
        async with asyncio.timeout(timeout_s):
            async for chunk in request.stream():
                body += chunk
                if len(body) > max_bytes:
                    raise too_large(max_bytes)
    except TimeoutError:
        message = f"The body did not come within {timeout_s:.0f} s (server.body_timeout_s)"
        raise OpenAIError(408, message, param="body", code="timeout") from None
    return bytes(body)
