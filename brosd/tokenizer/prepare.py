"""A request body to the submissions it asks for: text to tokens, defaults, limits."""

from __future__ import annotations

import asyncio
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bros.brosd.config import SloConfig
from bros.brosd.tokenizer.engine import Submission
from bros.brosd.tokenizer.errors import ApiError, invalid
from bros.brosd.tokenizer.schema import (
    ChatMessage,
    ChatRequest,
    CompletionRequest,
    Request,
    SloMs,
    refuse_unsupported,
)
from bros.brosd.tokenizer.text import Codec
from bros.brosd.wire import Sampling, Slo
from bros.kv import Klass

COMPLETION_TOKENS = 16  # of a completion that says nothing, as OpenAI's
GREEDY_BELOW = 1e-5  # a temperature that divides logits out of range
SEED_MASK = 2**63 - 1
SHORT_CHARS = 2048  # encoded at once; a longer text would keep streams waiting
ENCODER_THREADS = 2


class Preparer:
    """Holds what requests are measured by; one thread pool for long texts."""

    def __init__(self, codec: Codec, slo: SloConfig) -> None:
        self._codec = codec
        self._slo = slo
        self._threads = ThreadPoolExecutor(ENCODER_THREADS, thread_name_prefix="encode")

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def prepare(
        self, request: ChatRequest | CompletionRequest, max_len: int, *, batch: bool
    ) -> list[Submission]:
        """One submission per prompt. ApiError (400) if the request cannot be served as it is."""
        arrived_s = time.monotonic()
        refuse_unsupported(request)
        if request.stream_options is not None and not request.stream and not batch:
            raise invalid("stream_options", "goes with 'stream': true only")
        if isinstance(request, ChatRequest):
            prompts = [await self._encode_chat(request.messages)]
        else:
            prompts = await self._encode_prompts(request)
        klass = Klass.BE if batch or request.service_tier == "flex" else Klass.RT
        return [
            Submission(
                klass=klass,
                arrived_s=arrived_s,
                prompt=prompt,
                max_tokens=_max_tokens(request, len(prompt), max_len),
                sampling=_sampling(request),
                stop_ids=self._stop_ids(request),
                stops=request.stops,
                slo=self._objectives(request) if klass is Klass.RT else None,
                stream=bool(request.stream) and not batch,
            )
            for prompt in prompts
        ]

    async def _encode_chat(self, messages: list[ChatMessage]) -> list[int]:
        plain = [_plain(message, index) for index, message in enumerate(messages)]
        if sum(len(message["content"]) for message in plain) <= SHORT_CHARS:
            return self._codec.encode_chat(plain)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._codec.encode_chat, plain)

    async def _encode_prompts(self, request: CompletionRequest) -> list[list[int]]:
        encoded = []
        for name, prompt in request.prompts:
            ids = await self._encode(prompt) if isinstance(prompt, str) else prompt
            if not ids:
                raise invalid(name, "is empty: give at least one token")
            self._check_ids(ids, name)
            encoded.append(ids)
        return encoded

    async def _encode(self, text: str) -> list[int]:
        if len(text) <= SHORT_CHARS:
            return self._codec.encode(text)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._codec.encode, text)

    def _check_ids(self, ids: list[int], name: str) -> None:
        limit = self._codec.vocab_size
        for position, token in enumerate(ids):
            if not 0 <= token < limit:
                field = f"{name}[{position}]"
                raise invalid(field, f"token id {token} is not in [0, {limit})")

    def _stop_ids(self, request: Request) -> list[int]:
        asked = request.stop_token_ids or []
        self._check_ids(asked, "stop_token_ids")
        return [*asked, *([] if request.ignore_eos else self._codec.eos_ids)]

    def _objectives(self, request: Request) -> Slo:
        asked = request.slo or SloMs()
        ttft_ms, tpot_ms = asked.ttft_ms, asked.tpot_ms
        return Slo(
            ttft_s=self._slo.ttft_s if ttft_ms is None else ttft_ms / 1000,
            tpot_s=self._slo.tpot_s if tpot_ms is None else tpot_ms / 1000,
        )


def _plain(message: ChatMessage, index: int) -> dict[str, Any]:
    """A message as chat templates expect it: content as one text, no role that only OpenAI has."""
    if message.tool_calls:
        raise invalid(f"messages[{index}].tool_calls", "not supported yet", "unsupported_value")
    if message.content is None:
        raise invalid(f"messages[{index}].content", "is required", "missing_field")
    content = message.content
    if not isinstance(content, str):
        content = "\n".join(part.text for part in content)
    role = "system" if message.role == "developer" else message.role
    plain = {"role": role, "content": content}
    if message.name is not None:
        plain["name"] = message.name
    if message.tool_call_id is not None:
        plain["tool_call_id"] = message.tool_call_id
    return plain


def _max_tokens(request: ChatRequest | CompletionRequest, num_prompt: int, max_len: int) -> int:
    """How many tokens may be sampled. ApiError if the context has no room for so many."""
    left = max_len - num_prompt
    field = "messages" if isinstance(request, ChatRequest) else "prompt"
    if left < 1:
        raise _too_long(field, f"{num_prompt} tokens leave no room for an answer", max_len)
    name, asked = _asked(request)
    if asked is None:
        return left if isinstance(request, ChatRequest) else min(COMPLETION_TOKENS, left)
    if asked > left:
        problem = f"{num_prompt} tokens of {field} and {asked} of answer are too many"
        raise _too_long(name, problem, max_len)
    return asked


def _asked(request: ChatRequest | CompletionRequest) -> tuple[str, int | None]:
    if isinstance(request, ChatRequest) and request.max_completion_tokens is not None:
        return "max_completion_tokens", request.max_completion_tokens
    return "max_tokens", request.max_tokens


def _too_long(param: str, problem: str, max_len: int) -> ApiError:
    problem = f"{problem}: the context length is {max_len} tokens"
    return invalid(param, problem, "context_length_exceeded")


def _sampling(request: Request) -> Sampling:
    temperature = 1.0 if request.temperature is None else request.temperature
    seed = secrets.randbits(63) if request.seed is None else request.seed & SEED_MASK
    return Sampling(
        temperature=temperature if temperature >= GREEDY_BELOW else 0.0,
        top_k=max(0, request.top_k or 0),
        top_p=1.0 if request.top_p is None else request.top_p,
        min_p=request.min_p or 0.0,
        repetition_penalty=request.repetition_penalty or 1.0,
        frequency_penalty=request.frequency_penalty or 0.0,
        presence_penalty=request.presence_penalty or 0.0,
        seed=seed,
    )
