"""Which request may claim an iteration first, and whose KV it may take for that.

A policy only orders; `Packer` applies budgets and moves blocks. Pure: no clock, no I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from heapq import merge
from itertools import chain
from typing import Protocol

from bros.brosd.request import Request
from bros.kv import Klass

Waiting = Mapping[Klass, Iterable[Request]]


class Policy(Protocol):
    """Requests that run come in order of admission, those that wait in order of arrival."""

    def queue(self, running: list[Request], waiting: Waiting) -> Iterable[Request]:
        """All requests, in the order in which they may claim the iteration."""

    def victims(self, request: Request, running: list[Request]) -> list[Request]:
        """Requests whose KV `request` may take, the first to be hurt first."""


class Fcfs:
    """First come, first served, blind to classes: vLLM's default, our baseline."""

    def queue(self, running: list[Request], waiting: Waiting) -> Iterable[Request]:
        arrivals = merge(*waiting.values(), key=lambda request: request.arrived_s)
        return chain(running, arrivals)  # within a queue, the order of the queue

    def victims(self, request: Request, running: list[Request]) -> list[Request]:
        return _after(request, running)


class Bros:
    """Real-time before best-effort, decodes before prefills; RT takes BE's tail blocks."""

    def queue(self, running: list[Request], waiting: Waiting) -> Iterable[Request]:
        by_class: dict[Klass, list[Request]] = {Klass.RT: [], Klass.BE: []}
        for request in running:
            by_class[request.klass].append(request)
        for requests in by_class.values():
            requests.sort(key=lambda request: request.num_output == 0)  # stable
        return chain(by_class[Klass.RT], waiting[Klass.RT], by_class[Klass.BE], waiting[Klass.BE])

    def victims(self, request: Request, running: list[Request]) -> list[Request]:
        if request.klass is Klass.BE:
            return [other for other in _after(request, running) if other.klass is Klass.BE]
        best_effort = [other for other in reversed(running) if other.klass is Klass.BE]
        later = [other for other in _after(request, running) if other.klass is Klass.RT]
        return best_effort + later


def _after(request: Request, running: list[Request]) -> list[Request]:
    """Who was admitted later, latest first; nobody if the request is not admitted yet."""
    if request not in running:
        return []
    return running[: running.index(request) : -1]


POLICIES: dict[str, Callable[[], Policy]] = {"bros": Bros, "fcfs": Fcfs}
