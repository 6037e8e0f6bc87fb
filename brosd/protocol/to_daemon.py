"""Messages of the tokenizer and the workers to the daemon."""

from __future__ import annotations

import msgspec

from bros.brosd.protocol.base import WIRE_VERSION, Message, Part
from bros.brosd.protocol.sampling import Logprobs, Sampling, Slo
from bros.kv import Klass


class Hello(Message, tag="hello"):
    """A process is up. `generation` tells its messages from those of a killed predecessor."""

    peer: str
    generation: int
    wire: int = WIRE_VERSION


class Geometry(Message, tag="geometry"):
    """A worker has loaded its model and says what its KV pool can hold."""

    worker: int
    generation: int
    num_blocks: int
    block_size: int
    max_len: int
    vocab_size: int
    kv_bytes_per_token: int


class Sample(Part):
    """An iteration of a profile: it computed `counts` tokens after `starts` in `seconds`."""

    starts: list[int]
    counts: list[int]
    seconds: float


class Ready(Message, tag="ready"):
    """The process serves: a worker has warmed up, the tokenizer listens."""

    peer: str
    generation: int
    profile: list[Sample] = msgspec.field(default_factory=list)


class Heartbeat(Message, tag="beat"):
    """The process is alive. A thread of its own sends this every second."""

    peer: str
    generation: int


class Fault(Message, tag="fault"):
    """The process cannot go on and exits; `reason` is one line for the operator."""

    peer: str
    generation: int
    reason: str


class Admit(Message, tag="admit"):
    """A tokenized request. `arrived_s` is CLOCK_MONOTONIC when the tokenizer got it."""

    rid: int
    klass: Klass
    arrived_s: float
    prompt: bytes
    max_tokens: int
    sampling: Sampling
    stop_ids: list[int] = msgspec.field(default_factory=list)
    slo: Slo | None = None


class Abort(Message, tag="abort"):
    """Forget a request and free its KV. Idempotent."""

    rid: int


class Failed(Part):
    """The row whose token is at `index` of its message cannot go on; `reason` is one line.

    The token means nothing then.
    """

    index: int
    reason: str


class StepDone(Message, tag="done"):
    """An iteration is over. `tokens` has one id per row that sampled, in plan order.

    `copy_s` and `copy_bytes` are the part of checkpoint copies.
    """

    worker: int
    generation: int
    step: int
    tokens: bytes
    elapsed_s: float
    copy_s: float = 0.0
    copy_bytes: int = 0
    logprobs: list[Logprobs] = msgspec.field(default_factory=list)
    failed: list[Failed] = msgspec.field(default_factory=list)


ToDaemon = Hello | Geometry | Ready | Heartbeat | Fault | Admit | Abort | StepDone
