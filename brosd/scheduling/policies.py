"""Which requests may claim an iteration, in which order, for how long, and whose KV they may take.

A policy only decides; `Packer` applies budgets and moves blocks. Pure: no clock, no I/O. This
module has the protocol, and policies to compare with, which do not look at time. Ours is in
`slo_policy`, and the names of all are in `registry`.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import merge
from itertools import chain
from typing import Protocol

from bros.brosd.scheduling.cost_model import CostModel
from bros.brosd.scheduling.queues import Waiting
from bros.brosd.scheduling.request import Request
from bros.kv import Klass


@dataclass(frozen=True)
class Agenda:
    """What may run in an iteration: `requests` in the order in which they may claim it.

    The iteration may take `limit_s`, or `be_limit_s` if a BE request is in it. `urgent` requests
    get a little of it in any case.
    """

    requests: Iterable[Request]
    limit_s: float = math.inf
    be_limit_s: float = math.inf
    urgent: Container[Request] = ()


class Policy(Protocol):
    """Running requests come in order of admission, waiting ones in order of arrival."""

    class_blind: bool
    """Whether it treats RT and BE alike. Then no KV is reserved for RT, and a victim loses all of
    its KV, as in vLLM."""

    def agenda(
        self, running: Sequence[Request], waiting: Waiting, now_s: float, cost: CostModel
    ) -> Agenda:
        """Return what may run in the iteration that starts at `now_s`."""

    def victims(self, request: Request, running: Sequence[Request]) -> list[Request]:
        """Return the requests whose KV `request` may take, in the order in which they lose it."""


class Fcfs:
    """First come, first served, whatever the class: vLLM's default, and our baseline."""

    class_blind = True

    def agenda(
        self, running: Sequence[Request], waiting: Waiting, now_s: float, cost: CostModel
    ) -> Agenda:
        return Agenda(chain(running, in_order_of_arrival(waiting)))

    def victims(self, request: Request, running: Sequence[Request]) -> list[Request]:
        return later_than(request, running)


class Tgi(Fcfs):
    """Prompts first, while decodes wait: the rule of TGI, the paper's other baseline."""

    def agenda(
        self, running: Sequence[Request], waiting: Waiting, now_s: float, cost: CostModel
    ) -> Agenda:
        prompts = (request for request in running if request.num_output == 0)
        decodes = (request for request in running if request.num_output)
        return Agenda(chain(prompts, in_order_of_arrival(waiting), decodes))


class Priority:
    """Real-time before best-effort, in order of arrival: vLLM's priority policy."""

    class_blind = False

    def agenda(
        self, running: Sequence[Request], waiting: Waiting, now_s: float, cost: CostModel
    ) -> Agenda:
        classes = ((of_class(klass, running), waiting[klass]) for klass in Klass)
        return Agenda(chain.from_iterable(chain.from_iterable(classes)))

    def victims(self, request: Request, running: Sequence[Request]) -> list[Request]:
        return below(request, running)


class RoundRobin(Priority):
    """The classes take turns in going first; the other class gets what is left of the iteration."""

    def __init__(self) -> None:
        self._turn = Klass.BE

    def agenda(
        self, running: Sequence[Request], waiting: Waiting, now_s: float, cost: CostModel
    ) -> Agenda:
        self._turn = self._turn.other
        turns = (self._turn, self._turn.other)
        classes = ((of_class(klass, running), waiting[klass]) for klass in turns)
        return Agenda(chain.from_iterable(chain.from_iterable(classes)))


class Fallback:
    """Used when a policy has failed: decodes, then prompts in order of arrival, without a limit.

    It chooses victims as the failed policy's kind does, class-blind or not, so that it does not
    undo what that policy has done.
    """

    def __init__(self, class_blind: bool) -> None:
        self.class_blind = class_blind

    def agenda(
        self, running: Sequence[Request], waiting: Waiting, now_s: float, cost: CostModel
    ) -> Agenda:
        started = sorted(running, key=lambda request: request.num_output == 0)  # stable
        return Agenda(chain(started, in_order_of_arrival(waiting)))

    def victims(self, request: Request, running: Sequence[Request]) -> list[Request]:
        return (later_than if self.class_blind else below)(request, running)


def of_class(klass: Klass, requests: Iterable[Request]) -> Iterator[Request]:
    """Return the requests of one class, in the same order."""
    return (request for request in requests if request.klass is klass)


def in_order_of_arrival(waiting: Waiting) -> Iterator[Request]:
    """Return both queues merged by time of arrival."""
    return merge(*waiting.values(), key=lambda request: request.arrived_s)


def below(request: Request, running: Sequence[Request]) -> list[Request]:
    """Return later requests of its class; for an RT request, all BE requests before these."""
    later = [other for other in later_than(request, running) if other.klass is request.klass]
    if request.klass is Klass.BE:
        return later
    return [*of_class(Klass.BE, reversed(running)), *later]


def later_than(request: Request, running: Sequence[Request]) -> list[Request]:
    """Return those admitted later, the latest first; none if the request is not admitted."""
    if request not in running:
        return []
    return list(running[: running.index(request) : -1])
