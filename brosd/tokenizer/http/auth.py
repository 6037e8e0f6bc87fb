"""Check who sends a request, and how many requests he has at a time, before an endpoint sees it.

A client is the owner of a key, or an address where no key is required.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from bros.brosd.api_keys import Keys
from bros.brosd.tokenizer.http.bodies import UnfinishedBodies
from bros.brosd.tokenizer.http.body import CLIENT, UNFINISHED
from bros.brosd.tokenizer.openai.errors import OpenAIError, error_response

log = logging.getLogger(__name__)


class AuthMiddleware:
    """ASGI middleware. `keys` is None where no key is required; `open_paths` never need one."""

    def __init__(
        self,
        app: ASGIApp,
        keys: Keys | None,
        max_requests_per_key: int,
        open_paths: Collection[str],
        bodies: UnfinishedBodies,
    ) -> None:
        self._app = app
        self.keys = keys
        self.max_requests_per_key = max_requests_per_key
        self._open_paths = frozenset(open_paths)
        self._bodies = bodies
        self._active: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in self._open_paths:
            await self._app(scope, receive, send)
            return
        try:
            client = self._client(scope)
            self._check_room(client)
        except OpenAIError as error:
            await error_response(error, {"connection": "close"})(scope, receive, send)
            return
        self._active[client] += 1
        scope[CLIENT], scope[UNFINISHED] = client, self._bodies
        try:
            await self._app(scope, receive, send)
        finally:
            self._active[client] -= 1
            if not self._active[client]:
                del self._active[client]

    def _client(self, scope: Scope) -> str:
        """Who sent the request. Raise OpenAIError (401) if a required key is missing."""
        if self.keys is None:
            address = scope.get("client")
            return str(address[0]) if address else ""
        scheme, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key:
            message = "This server needs an API key: send 'Authorization: Bearer KEY'"
            raise OpenAIError(401, message, code="missing_api_key")
        owner = self.keys.owner(key.strip())
        if owner is None:
            log.warning("event=bad_api_key")
            raise OpenAIError(401, "This API key is not known here", code="invalid_api_key")
        return owner

    def _check_room(self, client: str) -> None:
        """Raise OpenAIError (429) if there is no room, and no unfinished body to make some."""
        full = self._active[client] >= self.max_requests_per_key
        if full and not self._bodies.refuse_oldest(client):
            message = (
                f"More than {self.max_requests_per_key} requests at a time "
                "(server.max_requests_per_key)"
            )
            raise OpenAIError(429, message, code="too_many_requests")
