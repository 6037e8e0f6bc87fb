"""What this server answers: one method of one URL, for the router and for `/openapi.json`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from bros.brosd.tokenizer.openai.errors import Json

JSON = "application/json"

Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class Endpoint:
    """What answers the requests for one method of one URL, and how it is documented.

    `body` is the struct that a JSON body is parsed to, `form` the schema of a multipart form.
    `answers` are the media types of good answers.
    """

    method: Literal["GET", "POST", "DELETE"]
    path: str
    handler: Handler | ASGIApp
    summary: str
    body: type | None = None
    form: Json | None = None
    query: dict[str, Json] = field(default_factory=dict)
    answers: tuple[str, ...] = (JSON,)
    needs_key: bool = True  # False for probes, which have no key

    @property
    def route(self) -> Route:
        return Route(self.path, self.handler, methods=[self.method], name=self.path)
