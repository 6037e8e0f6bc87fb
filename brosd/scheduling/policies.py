"""Which request may claim an iteration first, for how long, and whose KV it may take for that.

A policy only decides; `Packer` applies budgets and moves blocks. Pure: no clock, no I/O. Here are
the protocol and the policies that do not look at time, to compare with; `slo_policy` has our own,
and `registry` the names of all.
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

    `limit_s` is how long it may take; with any BE request in it, `be_limit_s`. `urgent` requests
    get a little in any case.
    """

    requests: Iterable[Request]
    limit_s: float = math.inf
    be_limit_s: float = math.inf
    urgent: Container[Request] = ()


class Policy(Protocol):
    """Requests that run come in order of admission, those that wait in order of arrival."""

    class_blind: bool
    """Whether RT and BE are the same to it: then no KV is reserved for RT, and a victim loses all
    of its KV, as in vLLM."""

    def agenda(
        self, running: Sequence[Request], waiting: Waiting, now_s: float, cost: CostModel
    ) -> Agenda:
        """What the iteration that starts now is for."""

    def victims(self, request: Request, running: Sequence[Request]) -> list[Request]:
        """Requests whose KV `request` may take, the first to be hurt first."""


class Fcfs:
    """First come, first served, blind to classes: vLLM's default, our baseline."""

    class_blind = True

    def agenda(
        self, running: Sequence[Request], waiting: Waiting, now_s: float, cost: CostModel
    ) -> Agenda:
        return Agenda(chain(running, in_order_of_arrival(waiting)))

    def victims(self, request: Request, running: Sequence[Request]) -> list[Request]:
        return later_than(request, running)


class Tgi(Fcfs):
    """Prompts before decodes, which wait meanwhile: the rule of TGI, the paper's other baseline."""

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
    """The classes take turns in going first: what one leaves of an iteration, the other has."""

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
    """Decodes, then prompts in order of arrival, at any length: for when a policy has failed.

    Its victims are those of the class-blind policies or those of the others, so that it does not
    undo what the policy that it stands in for has done.
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
    """Those of one class, in their order."""
    return (request for request in requests if request.klass is klass)


def in_order_of_arrival(waiting: Waiting) -> Iterator[Request]:
    """Both queues as one; each keeps its order."""
    return merge(*waiting.values(), key=lambda request: request.arrived_s)


def below(request: Request, running: Sequence[Request]) -> list[Request]:
    """Whom a request may hurt: later ones of its class, and for RT all of BE before them."""
    later = [other for other in later_than(request, running) if other.klass is request.klass]
    if request.klass is Klass.BE:
        return later
    return [*of_class(Klass.BE, reversed(running)), *later]


def later_than(request: Request, running: Sequence[Request]) -> list[Request]:
    """Who was admitted later, latest first; nobody if the request is not admitted yet."""
    if request not in running:
        return []
    return list(running[: running.index(request) : -1])
