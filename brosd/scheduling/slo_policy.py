"""The `bros` policy: RT as its objectives ask, BE in the time that is left.

Every RT request has a residual time, its slack, until its next token is due (the paper's Eq. 6). An
iteration may take the least slack of those that can still meet their objectives. BE may not take
all of it: streams save up a reserve, which goes to the prompts of RT that arrive.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from bros.brosd.scheduling.cost_model import CostModel
from bros.brosd.scheduling.policies import (
    Agenda,
    Fcfs,
    Policy,
    Priority,
    RoundRobin,
    Tgi,
    Waiting,
    below,
    of_class,
)
from bros.brosd.scheduling.request import Request
from bros.kv import Klass

AIM = 0.96  # of an objective is what plans are made for: predictions are no promises
PACE = 0.92  # of a TPOT is what an iteration with BE may take while a stream has no reserve
RESERVE = 1.0  # TPOTs of slack that BE leaves to a stream, for prompts of RT
BANK = 3.0  # TPOTs of slack that an iteration may use up, so that no stream visibly stalls
FLOOR = 0.5  # of a TPOT is what an iteration may always take: one late stream is not all
DECODE_SHARE = 0.75  # of a TPOT may go into decodes of RT; the rest is for prompts
SMOOTHING = 0.05  # weight of a new RT prompt in the typical length


@dataclass
class RankedRequests:
    """RT requests by what can be done for them."""

    streams: list[Request] = field(default_factory=list)  # decode, and can meet their objective
    prompts: list[Request] = field(default_factory=list)  # can get their first token in time
    late: list[Request] = field(default_factory=list)  # have missed it, or will: they yield


class SloPolicy:
    """Priority packing. RT takes BE's tail blocks, and a request in time those of late ones."""

    def __init__(self) -> None:
        self._typical = TypicalRequest()
        self._late: list[Request] = []

    def agenda(
        self, running: list[Request], waiting: Waiting, now_s: float, cost: CostModel
    ) -> Agenda:
        rt = [*of_class(Klass.RT, running), *waiting[Klass.RT]]
        self._typical.note(rt)
        pace_s = self._pace_s(rt)
        ranks = self._rank(rt, pace_s, now_s, cost)
        self._late = ranks.late
        be = sorted(of_class(Klass.BE, running), key=lambda r: r.num_output == 0)  # stable
        limit_s = self._limit_s(ranks, now_s) - cost.margin_s
        be_limit_s = min(limit_s, self._be_limit_s(ranks, now_s, cost))
        return Agenda(
            [*ranks.streams, *ranks.prompts, *ranks.late, *be, *waiting[Klass.BE]],
            limit_s,
            be_limit_s,
            urgent={*ranks.streams, *ranks.prompts[:1]},
        )

    def victims(self, request: Request, running: list[Request]) -> list[Request]:
        victims = below(request, running)
        if request.klass is Klass.BE or request in self._late:
            return victims
        late = [other for other in self._late if other.row is not None and other not in victims]
        return [*victims, *late]

    # -- who can make it -------------------------------------------------------------------------

    def _pace_s(self, rt: Iterable[Request]) -> float:
        """How long iterations are while streams run."""
        paces = [request.slo.tpot_s for request in rt if request.slo is not None]
        return AIM * min(paces, default=math.inf)

    def _rank(
        self, rt: list[Request], pace_s: float, now_s: float, cost: CostModel
    ) -> RankedRequests:
        """Sort requests out: the earliest deadline first, as far as time goes."""
        ranks = RankedRequests()
        # Too slow for a single stream, and nothing is won by keeping others out.
        hopeless = cost.base_s + cost.chunk_s(0, 1) > DECODE_SHARE * pace_s
        pending: list[Request] = []
        for request in rt:
            if request.num_output == 0:
                pending.append(request)
            else:
                (ranks.streams if _can_recover(request, now_s) else ranks.late).append(request)
        ranks.streams.sort(key=lambda request: request.due_s(AIM))
        decodes_s = sum(cost.chunk_s(len(request.tokens), 1) for request in ranks.streams)
        late_s = sum(cost.chunk_s(len(request.tokens), 1) for request in ranks.late)
        prefill_s = 0.0
        held: list[Request] = []
        for request in sorted(pending, key=lambda request: request.due_s(AIM)):
            share = max(0.1, 1 - (cost.base_s + decodes_s) / pace_s)
            own_s = cost.chunk_s(request.num_computed, max(2, request.num_missing))
            decode_s = cost.chunk_s(len(request.tokens), 1)
            load_s = cost.base_s + decodes_s + decode_s
            sustained = hopeless or load_s <= DECODE_SHARE * pace_s
            if not (sustained or request.row is not None or not ranks.streams):
                held.append(request)
                continue
            if now_s + cost.base_s + (prefill_s + own_s) / share > request.due_s():
                held.append(request)
                continue
            prefill_s += own_s
            decodes_s += decode_s
            ranks.prompts.append(request)
        for request in held:
            decode_s = cost.chunk_s(len(request.tokens), 1)
            load_s = cost.base_s + decodes_s + late_s + decode_s
            crowded = not hopeless and load_s > DECODE_SHARE * pace_s
            if request.row is None and crowded and (ranks.streams or ranks.late):
                continue
            late_s += decode_s
            ranks.late.append(request)
        return ranks

    # -- how long it may take --------------------------------------------------------------------

    def _limit_s(self, ranks: RankedRequests, now_s: float) -> float:
        """The least slack of what can still be met."""
        limit_s = math.inf
        for request in ranks.streams:
            if request.slo is not None:
                slack_s = request.due_s(AIM) - now_s
                tpot_s = request.slo.tpot_s
                limit_s = min(limit_s, max(FLOOR * tpot_s, min(slack_s, BANK * tpot_s)))
        for request in ranks.prompts[:1]:
            limit_s = min(limit_s, max(request.due_s(AIM) - now_s, FLOOR * self._typical.ttft_s))
        return limit_s

    def _be_limit_s(self, ranks: RankedRequests, now_s: float, cost: CostModel) -> float:
        """What leaves each stream its reserve, and a request that comes now its objective."""
        limit_s = self._typical.bearable_s(cost)
        for request in (*ranks.streams, *ranks.late):
            if request.slo is not None:
                tpot_s = request.slo.tpot_s
                spare_s = request.due_s(AIM) - now_s - RESERVE * tpot_s
                limit_s = min(limit_s, max(PACE * tpot_s, spare_s))
        return limit_s


class TypicalRequest:
    """What the next RT request is likely to be, from those that have come."""

    def __init__(self) -> None:
        self.ttft_s = 0.5
        self._prompt = 0.0  # tokens: mean, and mean of the squares
        self._square = 0.0
        self._last_rid = -1

    def note(self, requests: Iterable[Request]) -> None:
        """Learn from each request once; their numbers grow."""
        newest = self._last_rid
        for request in requests:
            if request.rid > self._last_rid:
                newest = max(newest, request.rid)
                self._prompt += SMOOTHING * (request.num_prompt - self._prompt)
                self._square += SMOOTHING * (request.num_prompt**2 - self._square)
                if request.slo is not None:
                    self.ttft_s = request.slo.ttft_s
        self._last_rid = newest

    def bearable_s(self, cost: CostModel) -> float:
        """How long a long one among them can wait for the iteration in flight to end."""
        deviation = math.sqrt(max(0.0, self._square - self._prompt**2))
        prefill_s = cost.base_s + cost.chunk_s(0, max(2, round(self._prompt + 2 * deviation)))
        return max(AIM * self.ttft_s - prefill_s, self.ttft_s / 5)


def _can_recover(request: Request, now_s: float) -> bool:
    """Whether a stream can meet its objectives if it gets all the time that there is."""
    if request.slo is None or request.first_s is None:
        return True
    if request.first_s > request.arrived_s + request.slo.ttft_s:
        return False
    behind_s = now_s - request.due_s()
    left = request.max_tokens - request.num_output
    return behind_s <= (1 - FLOOR) * left * request.slo.tpot_s


POLICIES: dict[str, Callable[[], Policy]] = {
    "bros": SloPolicy,
    "fcfs": Fcfs,
    "priority": Priority,
    "round-robin": RoundRobin,
    "tgi": Tgi,
}
