"""The bytes of bodies that are still coming. Who uses most is refused when there are too many."""

from __future__ import annotations

import asyncio
from collections import Counter

from bros.brosd.tokenizer.openai.errors import OpenAIError


class Body:
    """One body that is coming, of which so many bytes are in memory. `timeout` is what its reader
    waits under.
    """

    def __init__(self, client: str, timeout: asyncio.Timeout) -> None:
        self.client = client
        self.num_bytes = 0
        self.refused = False
        self._timeout = timeout

    def refuse(self) -> None:
        """End its reader's wait with a TimeoutError; then its bytes are free."""
        self.refused = True
        if not self._timeout.expired():
            self._timeout.reschedule(asyncio.get_running_loop().time())


class UnfinishedBodies:
    """All bodies that are still coming, the oldest first, and how much each client has sent."""

    def __init__(self, max_bytes: int, max_client_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._max_client_bytes = max_client_bytes
        self._bodies: dict[Body, None] = {}
        self._client_bytes: Counter[str] = Counter()
        self._bytes = 0

    def begin(self, body: Body) -> None:
        self._bodies[body] = None

    def add(self, body: Body, num_bytes: int) -> None:
        """Count more bytes of a body. Raise OpenAIError (429) if it is the one that is too much."""
        if body.refused:  # its reader had this chunk already
            raise too_many_bytes()
        body.num_bytes += num_bytes
        self._count(body, num_bytes)
        while self._client_bytes[body.client] > self._max_client_bytes:
            self._refuse_largest(body.client)
        while self._bytes > self._max_bytes:
            self._refuse_largest(max(self._client_bytes, key=self._client_bytes.__getitem__))
        if body.refused:
            raise too_many_bytes()

    def end(self, body: Body) -> None:
        """Forget a body: it is complete, or its reader has given up. A second call does nothing."""
        if body in self._bodies:
            del self._bodies[body]
            self._count(body, -body.num_bytes)

    def refuse_oldest(self, client: str) -> bool:
        """Refuse the client's body that has been coming for longest; False if there is none."""
        oldest = next((body for body in self._bodies if body.client == client), None)
        if oldest:
            self._refuse(oldest)
        return oldest is not None

    def _refuse_largest(self, client: str) -> None:
        own = (body for body in self._bodies if body.client == client)
        self._refuse(max(own, key=lambda body: body.num_bytes))

    def _refuse(self, body: Body) -> None:
        self.end(body)
        body.refuse()

    def _count(self, body: Body, num_bytes: int) -> None:
        self._bytes += num_bytes
        self._client_bytes[body.client] += num_bytes
        if not self._client_bytes[body.client]:
            del self._client_bytes[body.client]


def too_many_bytes() -> OpenAIError:
    message = (
        "Too many unfinished request bodies (server.max_unfinished_bytes, "
        "server.max_unfinished_bytes_per_client, server.max_requests_per_key)"
    )
    return OpenAIError(429, message, param="body", code="too_many_bodies")
