"""The URLs about the server itself: its model, its state, its statistics, its tokenizer."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from bros import __version__
from bros.brosd.config import ServerConfig
from bros.brosd.tokenizer.generation.live_requests import LiveRequests
from bros.brosd.tokenizer.http.body import read_body
from bros.brosd.tokenizer.http.endpoint import Endpoint
from bros.brosd.tokenizer.http.metrics import CONTENT_TYPE, render
from bros.brosd.tokenizer.openai.schema import DetokenizeRequest, TokenizeRequest
from bros.brosd.tokenizer.openai.service import OpenAIService


class ServerRoutes:
    """The endpoints that neither generate text nor belong to batches."""

    def __init__(
        self, api: OpenAIService, live_requests: LiveRequests, limits: ServerConfig
    ) -> None:
        self._api = api
        self._live_requests = live_requests
        self._limits = limits

    def endpoints(self) -> list[Endpoint]:
        return [
            Endpoint("GET", "/v1/models", self.models, "The models that are served: one"),
            Endpoint("GET", "/v1/models/{model:path}", self.model, "One model"),
            Endpoint(
                "GET",
                "/health",
                self.health,
                "The state of the daemon; 503 unless it is ready",
                needs_key=False,
            ),
            Endpoint(
                "GET",
                "/ready",
                self.ready,
                "Whether requests are taken and served now; an error if not",
                needs_key=False,
            ),
            Endpoint(
                "GET",
                "/ping",
                self.health,
                "The same as /health, under the name that some load balancers ask for",
                needs_key=False,
            ),
            Endpoint("GET", "/version", self.version, "The version of this server"),
            Endpoint(
                "GET",
                "/metrics",
                self.metrics,
                "Statistics, for Prometheus",
                answers=("text/plain",),
            ),
            Endpoint(
                "POST",
                "/tokenize",
                self.tokenize,
                "The tokens of a text, or of a conversation as its chat template writes it",
                body=TokenizeRequest,
            ),
            Endpoint(
                "POST",
                "/detokenize",
                self.detokenize,
                "The text of tokens",
                body=DetokenizeRequest,
            ),
        ]

    async def models(self, request: Request) -> Response:
        return JSONResponse(self._api.models())

    async def model(self, request: Request) -> Response:
        return JSONResponse(self._api.describe(request.path_params["model"]))

    async def health(self, request: Request) -> Response:
        state = self._live_requests.state
        return JSONResponse({"status": state}, 200 if state == "ready" else 503)

    async def ready(self, request: Request) -> Response:
        self._live_requests.check_ready()
        return JSONResponse({"status": "ready"})

    async def version(self, request: Request) -> Response:
        return JSONResponse({"version": __version__})

    async def metrics(self, request: Request) -> Response:
        live = self._live_requests
        return Response(render(live.stats, live.ends), media_type=CONTENT_TYPE)

    async def tokenize(self, request: Request) -> Response:
        return JSONResponse(await self._api.tokenize(await self._body(request)))

    async def detokenize(self, request: Request) -> Response:
        return JSONResponse(await self._api.detokenize(await self._body(request)))

    async def _body(self, request: Request) -> bytes:
        return await read_body(request, self._limits.max_body_bytes, self._limits.body_timeout_s)
