"""Answer an OpenAI request the same way for HTTP, local clients and the lines of batch jobs."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import msgspec

from bros.brosd.config import Config
from bros.brosd.tokenizer.generation.live_requests import LiveRequests, Submission
from bros.brosd.tokenizer.openai.errors import (
    Json,
    OpenAIError,
    internal,
    invalid,
    no_such_url,
    too_large,
)
from bros.brosd.tokenizer.openai.parsing import parse
from bros.brosd.tokenizer.openai.prepare import ModelSizes, Preparer
from bros.brosd.tokenizer.openai.responses import (
    ChatResponseBuilder,
    CompletionResponseBuilder,
    ResponseBuilder,
)
from bros.brosd.tokenizer.openai.schema import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    TokenizeRequest,
)
from bros.kv import Klass

log = logging.getLogger(__name__)

CHAT_URL = "/v1/chat/completions"
COMPLETIONS_URL = "/v1/completions"
URLS = (CHAT_URL, COMPLETIONS_URL)

_chat_decoder = msgspec.json.Decoder(ChatRequest)
_completion_decoder = msgspec.json.Decoder(CompletionRequest)
_tokenize_decoder = msgspec.json.Decoder(TokenizeRequest)
_detokenize_decoder = msgspec.json.Decoder(DetokenizeRequest)
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True)
class EventStream:
    """The JSON chunks of a streamed answer. Reading them raises OpenAIError if it fails.

    `chunks` must be closed: that aborts what still runs.
    """

    chunks: AsyncGenerator[bytes, None]


class OpenAIService:
    """Answers the requests of all clients. Its methods raise OpenAIError for a refused request."""

    def __init__(self, config: Config, live_requests: LiveRequests, preparer: Preparer) -> None:
        self._max_body_bytes = config.server.max_body_bytes
        self._model = config.model.name
        self._live_requests = live_requests
        self._preparer = preparer

    @property
    def model(self) -> str:
        """The name under which the model is asked for."""
        stats = self._live_requests.stats
        return stats.model if stats else self._model

    def models(self) -> Json:
        """The answer to GET /v1/models."""
        return {"object": "list", "data": [self.describe(self.model)]}

    def describe(self, model: str) -> Json:
        """The answer to GET /v1/models/{model}."""
        self._check_model(model)
        return {
            "id": model,
            "object": "model",
            "created": 0,
            "owned_by": "bros",
            "max_model_len": self._live_requests.max_len or None,
        }

    async def tokenize(self, body: bytes) -> Json:
        """The answer to POST /tokenize, as vLLM's."""
        request = parse(body, _tokenize_decoder)
        self._check_model(request.model or self.model)
        ids = await self._preparer.tokenize(request)
        return {
            "count": len(ids),
            "max_model_len": self._live_requests.max_len or None,
            "tokens": ids,
        }

    async def detokenize(self, body: bytes) -> Json:
        """The answer to POST /detokenize."""
        request = parse(body, _detokenize_decoder)
        self._check_model(request.model or self.model)
        return {"prompt": await self._preparer.detokenize(request)}

    async def handle(self, url: str, body: bytes) -> bytes | EventStream:
        """The answer to POST `url`."""
        with _unforeseen_errors():
            submissions, answer, with_usage = await self._prepare(url, body, batch=False)
            if not submissions[0].stream:
                return await self._whole(submissions, answer)
            return EventStream(self._chunks(submissions, answer, with_usage))

    async def handle_line(self, url: str, body: bytes) -> bytes:
        """The answer to the request in a line of a batch job: best-effort, never streamed."""
        with _unforeseen_errors():
            submissions, answer, _ = await self._prepare(url, body, batch=True)
            return await self._whole(submissions, answer)

    async def _prepare(
        self, url: str, body: bytes, *, batch: bool
    ) -> tuple[list[Submission], ResponseBuilder, bool]:
        """What to send to the daemon, what builds the answer, and whether a stream has usage."""
        if url not in URLS:
            raise no_such_url(url)
        if len(body) > self._max_body_bytes:
            raise too_large(self._max_body_bytes)
        request: ChatRequest | CompletionRequest
        if url == CHAT_URL:
            request = parse(body, _chat_decoder)
        else:
            request = parse(body, _completion_decoder)
        self._check_model(request.model)
        self._live_requests.check_open()
        try:
            sizes = ModelSizes(self._live_requests.max_len, self._live_requests.vocab_size)
            submissions = await self._preparer.prepare(request, sizes, batch=batch)
        except RecursionError:
            raise invalid("body", "nested too deeply") from None
        options = request.stream_options
        with_usage = options is not None and bool(options.include_usage)
        return submissions, self._answer(request, submissions), with_usage

    def _check_model(self, name: str) -> None:
        if name != self.model:
            message = f"Model '{name}' is not served here; '{self.model}' is"
            raise OpenAIError(404, message, param="model", code="model_not_found")

    def _answer(
        self, request: ChatRequest | CompletionRequest, submissions: list[Submission]
    ) -> ResponseBuilder:
        tools = request.callable_tools if isinstance(request, ChatRequest) else []
        kind = (
            ChatResponseBuilder if isinstance(request, ChatRequest) else CompletionResponseBuilder
        )
        return kind(
            token_bytes=self._preparer.token_bytes,
            n=request.n or 1,
            tools=frozenset(tool.function.name for tool in tools),
            model=self.model,
            service_tier="flex" if submissions[0].klass is Klass.BE else "default",
            prompts=[submission.prompt for submission in submissions],
            with_token_ids=bool(request.return_token_ids),
        )

    async def _whole(self, submissions: list[Submission], answer: ResponseBuilder) -> bytes:
        async with self._live_requests.submit(submissions) as deltas:
            choices = {delta.index: delta async for delta in deltas}
            ordered = [choices[index] for index in range(len(submissions))]
            return _encode(answer.whole(ordered, deltas.num_tokens))

    async def _chunks(
        self, submissions: list[Submission], answer: ResponseBuilder, with_usage: bool
    ) -> AsyncGenerator[bytes, None]:
        extra: Json = {"usage": None} if with_usage else {}
        with _unforeseen_errors():
            async with self._live_requests.submit(submissions) as deltas:
                opening = answer.opening()
                async for delta in deltas:
                    while opening:
                        yield _encode(opening.pop(0) | extra)
                    if delta.text or delta.finish or delta.logprobs or answer.with_token_ids:
                        yield _encode(answer.chunk(delta) | extra)
                if with_usage:
                    yield _encode(answer.closing(deltas.num_tokens))


@contextmanager
def _unforeseen_errors() -> Iterator[None]:
    """Raise OpenAIError (500) for any other exception, and log its traceback."""
    try:
        yield
    except OpenAIError:
        raise
    except Exception:
        log.exception("event=request_crashed")
        raise internal() from None
