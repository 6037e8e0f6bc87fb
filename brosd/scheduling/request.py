"""One request as the scheduler sees it: its tokens, its limits and its row."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bros.brosd.protocol.wire import (
    Admit,
    FinishReason,
    NewRow,
    Sampling,
    Slo,
    pack_ids,
    unpack_ids,
)
from bros.kv import Klass

ID_BYTES = 4
MAX_OTHER_BYTES = 256  # of a row's numbers in a message


@dataclass(slots=True, eq=False)
class Request:
    """`tokens` holds the prompt and all sampled tokens; it outlives rows and workers."""

    rid: int
    klass: Klass
    arrived_s: float
    tokens: list[int]
    num_prompt: int
    max_tokens: int
    sampling: Sampling
    stop_ids: frozenset[int]
    slo: Slo | None
    row: int | None = None  # None while the request waits
    known_to_worker: bool = False
    losses: int = 0  # workers that died while they ran the request
    aborted: bool = False
    num_computed: int = 0  # tokens whose KV was ever computed
    first_s: float | None = None  # when the first token was sampled
    last_s: float | None = None  # when the newest token was sampled
    recoveries: int = 0  # times that it lost KV and got it back

    @classmethod
    def of(cls, admit: Admit) -> Request:
        tokens = unpack_ids(admit.prompt).tolist()
        return cls(
            rid=admit.rid,
            klass=admit.klass,
            arrived_s=admit.arrived_s,
            tokens=tokens,
            num_prompt=len(tokens),
            max_tokens=admit.max_tokens,
            sampling=admit.sampling,
            stop_ids=frozenset(admit.stop_ids),
            slo=admit.slo,
        )

    def due_s(self, aim: float = 1.0) -> float:
        """Return when the next token is due (CLOCK_MONOTONIC), each at `aim` times its objective.

        Return infinity for a request without objectives.
        """
        if self.slo is None:
            return math.inf
        if self.first_s is None:
            return self.arrived_s + aim * self.slo.ttft_s
        return self.first_s + aim * self.num_output * self.slo.tpot_s

    @property
    def in_time(self) -> bool:
        """Whether its tokens so far have met its objectives. TPOT is the mean over the output."""
        if self.slo is None or self.first_s is None or self.last_s is None:
            return False
        tpot_s = (self.last_s - self.first_s) / max(1, self.num_output - 1)
        return self.first_s - self.arrived_s <= self.slo.ttft_s and tpot_s <= self.slo.tpot_s

    @property
    def num_output(self) -> int:
        return len(self.tokens) - self.num_prompt

    @property
    def num_missing(self) -> int:
        """Known tokens whose KV was never computed."""
        return len(self.tokens) - self.num_computed

    def append(self, token: int, max_len: int) -> FinishReason:
        """Append a sampled token. Return why the request is finished, or NONE if it is not."""
        self.tokens.append(token)
        if token in self.stop_ids:
            return FinishReason.STOP
        if self.num_output >= self.max_tokens or len(self.tokens) >= max_len:
            return FinishReason.LENGTH
        return FinishReason.NONE

    @property
    def new_row_bytes(self) -> int:
        """At least as many bytes as `new_row` has in a message."""
        return ID_BYTES * len(self.tokens) + len(self.sampling.grammar.encode()) + MAX_OTHER_BYTES

    def new_row(self, row: int) -> NewRow:
        """Return what a worker must know before the request's first iteration in `row`."""
        return NewRow(
            row=row,
            tokens=pack_ids(self.tokens),
            num_prompt=self.num_prompt,
            sampling=self.sampling,
        )
