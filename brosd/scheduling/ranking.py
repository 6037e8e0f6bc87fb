"""Which real-time requests can still meet their objectives, and which must yield."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from bros.brosd.scheduling.cost_model import CostModel
from bros.brosd.scheduling.request import Request

AIM = 0.96  # the share of each objective that is planned for, because predictions err
FLOOR = 0.5  # the share of a TPOT that an iteration may always take, however late one stream is
DECODE_SHARE = 0.75  # the share of a TPOT for decodes of RT; the rest is for prompts
LEAST_SHARE = 0.1  # the share of an iteration that prompts are assumed to have at least


@dataclass
class RankedRequests:
    """RT requests by what can be done for them."""

    streams: list[Request] = field(default_factory=list)  # decode, and can meet their objective
    prompts: list[Request] = field(default_factory=list)  # can get their first token in time
    late: list[Request] = field(default_factory=list)  # have missed it, or will: they yield


def rank(
    requests: Iterable[Request], pace_s: float, now_s: float, cost: CostModel
) -> RankedRequests:
    """Sort RT requests out, the earliest deadline first, as far as time goes.

    `pace_s` is how long iterations are while streams run. Requests that must wait for others are
    in no list.
    """
    return _Ranking(pace_s, now_s, cost).rank(requests)


class _Ranking:
    """Adds up what the requests that were ranked so far take of an iteration."""

    def __init__(self, pace_s: float, now_s: float, cost: CostModel) -> None:
        self._pace_s = pace_s
        self._now_s = now_s
        self._cost = cost
        self._ranks = RankedRequests()
        self._decodes_s = 0.0  # per iteration: streams, and prompts that will be streams
        self._prefill_s = 0.0  # of the prompts that can be in time
        # Iterations are too slow for a single stream: nothing is won by keeping others out.
        self._hopeless = cost.base_s + cost.chunk_s(0, 1) > DECODE_SHARE * pace_s

    def rank(self, requests: Iterable[Request]) -> RankedRequests:
        prompts = self._rank_started(requests)
        late_s = sum(self._decode_s(request) for request in self._ranks.late)
        self._rank_late(self._rank_prompts(prompts), late_s)
        return self._ranks

    def _rank_started(self, requests: Iterable[Request]) -> list[Request]:
        """Rank those that decode; return the others."""
        prompts, ranks = [], self._ranks
        for request in requests:
            if request.num_output == 0:
                prompts.append(request)
            elif can_recover(request, self._now_s):
                ranks.streams.append(request)
            else:
                ranks.late.append(request)
        ranks.streams.sort(key=lambda request: request.due_s(AIM))
        self._decodes_s = sum(self._decode_s(request) for request in ranks.streams)
        return prompts

    def _rank_prompts(self, prompts: list[Request]) -> list[Request]:
        """Take in those that can be in time; return the others."""
        held = []
        for request in sorted(prompts, key=lambda request: request.due_s(AIM)):
            waits = request.row is None and bool(self._ranks.streams) and self._crowded(request)
            own_s = self._cost.chunk_s(request.num_computed, max(2, request.num_missing))
            if waits or self._first_token_s(own_s) > request.due_s():
                held.append(request)
                continue
            self._prefill_s += own_s
            self._decodes_s += self._decode_s(request)
            self._ranks.prompts.append(request)
        return held

    def _rank_late(self, held: list[Request], late_s: float) -> None:
        """Let the others be late, but keep newcomers out while there are too many already."""
        ranks = self._ranks
        for request in held:
            started = ranks.streams or ranks.late
            if request.row is None and started and self._crowded(request, late_s):
                continue
            late_s += self._decode_s(request)
            ranks.late.append(request)

    def _first_token_s(self, own_s: float) -> float:
        """When a prompt that takes `own_s` can have its token, after those before it."""
        busy_s, share = self._cost.base_s + self._decodes_s, LEAST_SHARE
        if busy_s < self._pace_s:
            share = max(LEAST_SHARE, 1 - busy_s / self._pace_s)
        return self._now_s + self._cost.base_s + (self._prefill_s + own_s) / share

    def _crowded(self, request: Request, late_s: float = 0.0) -> bool:
        """Whether decodes would take too much of an iteration with this request among them."""
        load_s = self._cost.base_s + self._decodes_s + late_s + self._decode_s(request)
        return not self._hopeless and load_s > DECODE_SHARE * self._pace_s

    def _decode_s(self, request: Request) -> float:
        return self._cost.chunk_s(len(request.tokens), 1)


def can_recover(request: Request, now_s: float) -> bool:
    """Whether a stream can meet its objectives if it gets all the time that there is."""
    if request.slo is None or request.first_s is None:
        return True
    if request.first_s > request.arrived_s + request.slo.ttft_s:
        return False
    behind_s = now_s - request.due_s()
    left = request.max_tokens - request.num_output
    return behind_s <= (1 - FLOOR) * left * request.slo.tpot_s
