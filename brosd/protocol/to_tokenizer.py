"""Messages of the daemon to the tokenizer."""

from __future__ import annotations

import msgspec

from bros.brosd.protocol.base import Message
from bros.brosd.protocol.sampling import FinishReason, Logprobs
from bros.brosd.protocol.statistics import Stats
from bros.brosd.protocol.to_worker import Stop


class Emit(Message, tag="emit"):
    """The tokens of one iteration: request `rids[i]` got `tokens[i]` and perhaps finished."""

    rids: list[int]
    tokens: bytes
    finish: list[FinishReason]
    logprobs: list[Logprobs] = msgspec.field(default_factory=list)


class Fail(Message, tag="fail"):
    """A request ends without an answer: refused (4xx) or lost (5xx), as an OpenAI error."""

    rid: int
    status: int
    code: str
    message: str


class Drain(Message, tag="drain"):
    """Refuse new work, put batch lines back into their jobs, and finish the streams."""


class Reload(Message, tag="reload"):
    """The configuration file of the runtime directory has changed: take what can change live."""


ToTokenizer = Emit | Fail | Stats | Drain | Reload | Stop
