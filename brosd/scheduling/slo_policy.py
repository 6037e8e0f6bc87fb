"""The `bros` policy: RT as its objectives ask, BE in the time that is left.

Every RT request has a residual time, its slack, until its next token is due (the paper's Eq. 6). An
iteration may take the least slack of those that can still meet their objectives. BE may not take
all of it: streams save up a reserve, which goes to the prompts of RT that arrive.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from bros.brosd.scheduling.cost_model import CostModel
from bros.brosd.scheduling.policies import Agenda, below, of_class
from bros.brosd.scheduling.queues import Waiting
from bros.brosd.scheduling.ranking import AIM, FLOOR, RankedRequests, rank
from bros.brosd.scheduling.request import Request
from bros.kv import Klass

PACE = 0.92  # the share of a TPOT that an iteration with BE may take without a reserve
RESERVE = 1.0  # TPOTs of slack that BE leaves to a stream, for prompts of RT
BANK = 3.0  # TPOTs of slack that an iteration may use up, so that no stream visibly stalls
SMOOTHING = 0.05  # weight of a new RT prompt in the typical length


class SloPolicy:
    """Priority packing. RT takes BE's tail blocks, and a request in time those of late ones."""

    class_blind = False

    def __init__(self) -> None:
        self._typical = TypicalRequest()
        self._late: list[Request] = []

    def agenda(
        self, running: Sequence[Request], waiting: Waiting, now_s: float, cost: CostModel
    ) -> Agenda:
        rt = [*of_class(Klass.RT, running), *waiting[Klass.RT]]
        self._typical.note(rt)
        ranks = rank(rt, _pace_s(rt), now_s, cost)
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

    def victims(self, request: Request, running: Sequence[Request]) -> list[Request]:
        victims = below(request, running)
        if request.klass is Klass.BE or request in self._late:
            return victims
        late = [other for other in self._late if other.row is not None and other not in victims]
        return [*victims, *late]

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


def _pace_s(rt: Iterable[Request]) -> float:
    """How long iterations are while streams run."""
    paces = [request.slo.tpot_s for request in rt if request.slo is not None]
    return AIM * min(paces, default=math.inf)
