"""Which request may claim an iteration first, for how long, and whose KV it may take for that.

A policy only decides; `Packer` applies budgets and moves blocks. Pure: no clock, no I/O.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from heapq import merge
from itertools import chain
from typing import Protocol

from bros.brosd.cost import CostModel
from bros.brosd.request import Request
from bros.brosd.wire import Slo
from bros.kv import Klass

Waiting = Mapping[Klass, Iterable[Request]]

AIM = 0.9  # of an objective is what plans are made for: predictions are no promises
BANK = 3.0  # TPOTs of slack that a stream can save up, so that it never visibly stalls
FLOOR = 0.5  # of a TPOT is what an iteration may always take: one late stream is not all
DECODE_SHARE = 0.75  # of a TPOT may go into decodes of RT; the rest is for prompts that arrive
SMOOTHING = 0.05  # weight of a new RT prompt in the typical length


class Policy(Protocol):
    """Requests that run come in order of admission, those that wait in order of arrival."""

    def queue(self, running: list[Request], waiting: Waiting, now_s: float) -> Iterable[Request]:
        """Requests in the order in which they may claim the iteration."""

    def victims(self, request: Request, running: list[Request]) -> list[Request]:
        """Requests whose KV `request` may take, the first to be hurt first."""

    def limit_s(self, requests: Iterable[Request], now_s: float, cost: CostModel) -> float:
        """How long the iteration may take for these RT requests, in seconds."""

    def sustains(self, running: list[Request], cost: CostModel) -> bool:
        """Whether one more RT request can be admitted without harm to those that run."""


class Unhurried:
    """A policy that does not look at time."""

    def limit_s(self, requests: Iterable[Request], now_s: float, cost: CostModel) -> float:
        return math.inf

    def sustains(self, running: list[Request], cost: CostModel) -> bool:
        return True


class Fcfs(Unhurried):
    """First come, first served, blind to classes: vLLM's default, our baseline."""

    def queue(self, running: list[Request], waiting: Waiting, now_s: float) -> Iterable[Request]:
        arrivals = merge(*waiting.values(), key=lambda request: request.arrived_s)
        return chain(running, arrivals)  # within a queue, the order of the queue

    def victims(self, request: Request, running: list[Request]) -> list[Request]:
        return _after(request, running)


class Priority(Unhurried):
    """Real-time before best-effort, in order of arrival: vLLM's priority policy."""

    def queue(self, running: list[Request], waiting: Waiting, now_s: float) -> Iterable[Request]:
        return chain(
            _of(Klass.RT, running), waiting[Klass.RT], _of(Klass.BE, running), waiting[Klass.BE]
        )

    def victims(self, request: Request, running: list[Request]) -> list[Request]:
        return _below(request, running)


class RoundRobin(Unhurried):
    """The classes take turns in going first: what one leaves of an iteration, the other has."""

    def __init__(self) -> None:
        self._turn = Klass.BE

    def queue(self, running: list[Request], waiting: Waiting, now_s: float) -> Iterable[Request]:
        self._turn = self._turn.other
        turns = (self._turn, self._turn.other)
        return chain.from_iterable((*_of(klass, running), *waiting[klass]) for klass in turns)

    def victims(self, request: Request, running: list[Request]) -> list[Request]:
        return _below(request, running)


@dataclass
class Bros:
    """RT as its objectives ask, BE in the time that is left; RT takes BE's tail blocks.

    `slo` is what a request that arrives next is likely to ask for.
    """

    slo: Slo = field(default_factory=lambda: Slo(ttft_s=0.5, tpot_s=0.08))
    _typical_prompt: float = 0.0  # tokens
    _last_rid: int = -1

    def queue(self, running: list[Request], waiting: Waiting, now_s: float) -> Iterable[Request]:
        rt = sorted(_of(Klass.RT, running), key=lambda r: (r.num_output == 0, r.due_s(AIM)))
        be = sorted(_of(Klass.BE, running), key=lambda r: r.num_output == 0)  # stable
        arrivals = sorted(waiting[Klass.RT], key=lambda r: r.due_s(AIM) < now_s)
        in_time, late = _split(rt, now_s)
        return chain(in_time, arrivals, late, be, waiting[Klass.BE])

    def victims(self, request: Request, running: list[Request]) -> list[Request]:
        return _below(request, running)

    def limit_s(self, requests: Iterable[Request], now_s: float, cost: CostModel) -> float:
        """The least slack of a request that can still make it, and what the next one can bear."""
        margin_s = cost.margin_s
        limit_s = self._cap_s(cost)
        for request in requests:
            self._note(request)
            slo = request.slo
            if slo is None:
                continue
            slack_s = request.due_s(AIM) - now_s
            if request.num_output:
                slack_s = max(min(slack_s, BANK * slo.tpot_s), FLOOR * slo.tpot_s)
            elif slack_s < 0:
                continue
            limit_s = min(limit_s, slack_s)
        return limit_s - margin_s

    def _cap_s(self, cost: CostModel) -> float:
        """What a request that arrives just after the iteration has begun can wait for its end."""
        prefill_s = cost.base_s + cost.chunk_s(0, max(2, round(self._typical_prompt)))
        return max(AIM * self.slo.ttft_s - prefill_s, FLOOR * self.slo.tpot_s)

    def _note(self, request: Request) -> None:
        """Learn the typical prompt from each request once; their numbers grow."""
        if request.rid > self._last_rid:
            self._last_rid = request.rid
            self._typical_prompt += SMOOTHING * (request.num_prompt - self._typical_prompt)

    def sustains(self, running: list[Request], cost: CostModel) -> bool:
        rt = [request for request in _of(Klass.RT, running) if request.slo is not None]
        if not rt:
            return True
        tpot_s = min(request.slo.tpot_s for request in rt if request.slo is not None)
        decodes_s = sum(cost.chunk_s(len(request.tokens), 1) for request in rt)
        decodes_s += decodes_s / len(rt)  # the newcomer's
        return cost.base_s + decodes_s <= DECODE_SHARE * tpot_s


def _split(requests: list[Request], now_s: float) -> tuple[list[Request], list[Request]]:
    """Those that can still meet their objective, and those that cannot."""
    in_time = [request for request in requests if request.due_s() >= now_s]
    return in_time, [request for request in requests if request.due_s() < now_s]


def _of(klass: Klass, requests: Iterable[Request]) -> Iterator[Request]:
    return (request for request in requests if request.klass is klass)


def _below(request: Request, running: list[Request]) -> list[Request]:
    """Whom a request may hurt: later ones of its class, and for RT all of BE before them."""
    later = [other for other in _after(request, running) if other.klass is request.klass]
    return later if request.klass is Klass.BE else [*_of(Klass.BE, reversed(running)), *later]


def _after(request: Request, running: list[Request]) -> list[Request]:
    """Who was admitted later, latest first; nobody if the request is not admitted yet."""
    if request not in running:
        return []
    return running[: running.index(request) : -1]


POLICIES: dict[str, Callable[[], Policy]] = {
    "bros": Bros,
    "fcfs": Fcfs,
    "priority": Priority,
    "round-robin": RoundRobin,
}
