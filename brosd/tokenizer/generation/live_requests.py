"""The live requests: send them to the daemon, turn the tokens that come back into text.

Used on the event loop only. Leaving the block of `submit` early aborts what is left of it.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

from bros.brosd.protocol.wire import (
    Abort,
    Admit,
    Emit,
    Fail,
    FinishReason,
    Logprobs,
    Message,
    Sampling,
    Slo,
    Stats,
    pack_ids,
    unpack_ids,
)
from bros.brosd.tokenizer.generation.caller import caller
from bros.brosd.tokenizer.generation.detokenize import Decode, StopAutomaton, TextStream
from bros.brosd.tokenizer.openai.errors import OpenAIError, shutting_down, starting
from bros.kv import Klass

log = logging.getLogger(__name__)

RID_BITS = 63


class Sender(Protocol):
    """The way to the daemon."""

    async def send(self, message: Message) -> None: ...


@dataclass(frozen=True)
class Submission:
    """A tokenized request. Its text comes in one piece at the end unless it streams."""

    klass: Klass
    arrived_s: float
    prompt: list[int]
    max_tokens: int
    sampling: Sampling
    stop_ids: list[int]
    stops: StopAutomaton
    slo: Slo | None
    stream: bool


Ends = Counter[tuple[Klass, str]]
"""Requests that are over, by class and reason: "stop", "length", "abort" or "error"."""


@dataclass
class Delta:
    """What a request adds to choice `index` of an answer; the last delta has `finish`."""

    index: int
    text: str
    tokens: list[int]
    finish: str | None = None  # "stop" or "length"
    logprobs: list[tuple[int, Logprobs]] = field(default_factory=list)  # with their tokens


class LiveRequest:
    """One live request: takes tokens, hands deltas to `post`."""

    def __init__(
        self,
        index: int,
        submission: Submission,
        decode: Decode,
        post: Callable[[Delta | OpenAIError], None],
    ) -> None:
        self._index = index
        self._post = post
        self.submission = submission
        self.caller = caller.get()
        self.first_s: float | None = None  # when the first token came
        self.finish: str | None = None  # the reason, once it is known
        self._stream = submission.stream
        self._text = TextStream(decode, submission.stops)
        self._pieces: list[str] = []
        self._tokens: list[int] = []
        self._logprobs: list[tuple[int, Logprobs]] = []
        self.num_tokens = 0

    def push(self, token: int, finish: FinishReason, logprobs: Logprobs | None) -> bool:
        """Take a token. Return whether a stop string was found, so that no more are wanted."""
        if self.first_s is None:
            self.first_s = time.monotonic()
        self.num_tokens += 1
        self._tokens.append(token)
        if logprobs is not None:
            self._logprobs.append((token, logprobs))
        if finish is not FinishReason.STOP:  # the token that ends an answer has no text
            self._pieces.append(self._text.push(token))
        if finish is not FinishReason.NONE and not self._text.stopped:
            self._pieces.append(self._text.finish())
        if self._text.stopped or finish is FinishReason.STOP:
            self._flush("stop")
        elif finish is FinishReason.LENGTH:
            self._flush("length")
        elif self._stream:
            self._flush(None)
        return self._text.stopped

    def fail(self, error: OpenAIError) -> None:
        self._post(error)

    def _flush(self, finish: str | None) -> None:
        self.finish = finish
        text = "".join(self._pieces)
        self._post(Delta(self._index, text, self._tokens, finish, self._logprobs))
        self._pieces, self._tokens, self._logprobs = [], [], []


@dataclass
class DeltaStream:
    """The requests of one answer, one per choice. Iterate over it for their deltas."""

    requests: dict[int, LiveRequest] = field(default_factory=dict)  # by rid
    _queue: asyncio.Queue[Delta | OpenAIError] = field(default_factory=asyncio.Queue)

    @property
    def num_tokens(self) -> int:
        """Tokens sampled so far, over all prompts."""
        return sum(request.num_tokens for request in self.requests.values())

    def post(self, delta: Delta | OpenAIError) -> None:
        """Add what comes next; an error is the last."""
        self._queue.put_nowait(delta)

    async def __aiter__(self) -> AsyncIterator[Delta]:
        """Deltas in the order in which they come. Raise OpenAIError if any request fails."""
        unfinished = len(self.requests)
        while unfinished:
            delta = await self._queue.get()
            if isinstance(delta, OpenAIError):
                raise delta
            unfinished -= delta.finish is not None
            yield delta


class LiveRequests:
    """All live requests, and what the daemon last said about itself.

    `on_end` is called with each request that is over, and the reason.
    """

    def __init__(
        self, daemon: Sender, decode: Decode, on_end: Callable[[LiveRequest, str], None]
    ) -> None:
        self._daemon = daemon
        self._decode = decode
        self._on_end = on_end
        self._live: dict[int, LiveRequest] = {}
        self._opened = asyncio.Event()
        self.ends: Ends = Counter()
        self.stats: Stats | None = None
        self.draining = False

    @property
    def max_len(self) -> int:
        """Tokens of prompt and answer together; 0 while no worker has said."""
        return self.stats.max_len if self.stats else 0

    @property
    def vocab_size(self) -> int:
        """Tokens that the model has; 0 while no worker has said."""
        return self.stats.vocab_size if self.stats else 0

    @property
    def state(self) -> str:
        """The daemon's state, as it said last: "starting", "ready" or "draining"."""
        return self.stats.state if self.stats else "starting"

    def check_open(self) -> None:
        """Raise OpenAIError (503) unless new requests are taken."""
        if self.draining:
            raise shutting_down()
        if not self.max_len:
            raise starting()

    def check_ready(self) -> None:
        """Raise OpenAIError (503) unless new requests are taken, and served now."""
        self.check_open()
        if self.state != "ready":
            raise starting()

    async def wait_open(self) -> None:
        """Wait until the first worker has said how long a request may be."""
        await self._opened.wait()

    @asynccontextmanager
    async def submit(self, submissions: Sequence[Submission]) -> AsyncGenerator[DeltaStream, None]:
        """Send requests to the daemon; abort those that are not over at the end of the block.

        Raise OpenAIError (503) if no new requests are taken.
        """
        self.check_open()
        deltas = DeltaStream()
        try:
            for index, submission in enumerate(submissions):
                rid = secrets.randbits(RID_BITS)
                request = LiveRequest(index, submission, self._decode, deltas.post)
                self._live[rid] = deltas.requests[rid] = request
                await self._daemon.send(_admit(rid, submission))
            yield deltas
        finally:
            for rid in deltas.requests:
                if self._end(rid, "abort") is not None:
                    await self._daemon.send(Abort(rid))

    # -- from the daemon -------------------------------------------------------------------------

    async def on_emit(self, emit: Emit) -> None:
        """Hand tokens to their requests. Abort a request that is not known here."""
        tokens = unpack_ids(emit.tokens).tolist()
        logprobs = {emit.rids[item.index]: item for item in emit.logprobs}
        for rid, token, finish in zip(emit.rids, tokens, emit.finish, strict=True):
            request = self._live.get(rid)
            unwanted = request is None or request.push(token, finish, logprobs.get(rid))
            if request and request.finish:
                self._end(rid, request.finish)
            if unwanted and finish is FinishReason.NONE:
                await self._daemon.send(Abort(rid))

    def on_fail(self, fail: Fail) -> None:
        if request := self._end(fail.rid, "error"):
            request.fail(OpenAIError(fail.status, fail.message, code=fail.code))

    def _end(self, rid: int, reason: str) -> LiveRequest | None:
        """Forget a request, if it lives, and count it."""
        request = self._live.pop(rid, None)
        if request is not None:
            self.ends[request.submission.klass, reason] += 1
            self._on_end(request, reason)
        return request

    def on_stats(self, stats: Stats) -> None:
        self.stats = stats
        if stats.max_len:
            self._opened.set()

    def drain(self) -> None:
        """Take no new requests."""
        self.draining = True

    def fail_all(self) -> None:
        """End all requests with an error: the process stops."""
        self.draining = True
        for rid in list(self._live):
            if request := self._end(rid, "error"):
                request.fail(shutting_down())


def _admit(rid: int, submission: Submission) -> Admit:
    return Admit(
        rid=rid,
        klass=submission.klass,
        arrived_s=submission.arrived_s,
        prompt=pack_ids(submission.prompt),
        max_tokens=submission.max_tokens,
        sampling=submission.sampling,
        stop_ids=submission.stop_ids,
        slo=submission.slo,
    )
