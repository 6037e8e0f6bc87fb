"""The requests of one scheduler: those that run and those that wait. Only `Queues` moves them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from types import MappingProxyType

from bros.brosd.scheduling.request import Request
from bros.kv import Klass

Waiting = Mapping[Klass, Sequence[Request]]


class Queues:
    """Every request is here once: it runs, which means that it has a row, or it waits."""

    def __init__(self) -> None:
        self._by_rid: dict[int, Request] = {}
        self._running: list[Request] = []
        self._waiting: dict[Klass, deque[Request]] = {klass: deque() for klass in Klass}
        self._view: tuple[Request, ...] | None = None  # of `_running`, until that changes

    # -- views -----------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._by_rid)

    def get(self, rid: int) -> Request | None:
        """Return the request with this number, or None if it is not here."""
        return self._by_rid.get(rid)

    @property
    def rids(self) -> list[int]:
        """Numbers of all requests."""
        return list(self._by_rid)

    @property
    def running(self) -> Sequence[Request]:
        """Requests that have a row, in order of admission. The view does not change later."""
        if self._view is None:
            self._view = tuple(self._running)
        return self._view

    @property
    def waiting(self) -> Waiting:
        """Requests without a row, in the order in which they may be admitted."""
        return MappingProxyType(self._waiting)

    def window(self, size: int) -> Waiting:
        """Return the oldest `size` waiting requests of each class, and the newest `size` of RT.

        With too many RT requests to serve, only the newest can be in time.
        """
        heads = {klass: list(islice(queue, size)) for klass, queue in self._waiting.items()}
        rt = self._waiting[Klass.RT]
        newest = islice(reversed(rt), max(0, min(size, len(rt) - size)))
        heads[Klass.RT].extend(reversed(list(newest)))
        return heads

    def has(self, klass: Klass) -> bool:
        """Whether any request of the class runs or waits."""
        return bool(self._waiting[klass]) or any(r.klass is klass for r in self._running)

    # -- requests come and go --------------------------------------------------------------------

    def enqueue(self, request: Request) -> None:
        """Let a new request wait behind the others of its class."""
        self._by_rid[request.rid] = request
        self._waiting[request.klass].append(request)

    def adopt(self, requests: Iterable[Request]) -> None:
        """Let requests from another scheduler wait, in order of arrival with those here."""
        for request in requests:
            self.enqueue(request)
        for klass, queue in self._waiting.items():
            self._waiting[klass] = deque(sorted(queue, key=lambda request: request.arrived_s))

    def hand_over(self) -> list[Request]:
        """Remove and return all requests that wait."""
        requests = [request for queue in self._waiting.values() for request in queue]
        for queue in self._waiting.values():
            queue.clear()
        for request in requests:
            del self._by_rid[request.rid]
        return requests

    def remove(self, request: Request) -> None:
        """Forget a request, whether it runs or waits. The caller has freed its row."""
        if request.row is None:
            self._waiting[request.klass].remove(request)
        else:
            self._running.remove(request)
            request.row = self._view = None
        del self._by_rid[request.rid]

    # -- requests run and wait -------------------------------------------------------------------

    def start(self, request: Request, row: int) -> None:
        """Let a waiting request run in `row`. Raise ValueError if it does not wait."""
        self._waiting[request.klass].remove(request)
        request.row = row
        request.known_to_worker = False
        self._running.append(request)
        self._view = None

    def requeue(self, request: Request) -> None:
        """Let a running request wait again, before the others of its class."""
        self._running.remove(request)
        request.row = self._view = None
        self._waiting[request.klass].appendleft(request)

    def requeue_all(self) -> None:
        """Let all running requests wait again, in their order; forget those that were aborted."""
        for request in reversed(self._running):
            request.row = None
            if request.aborted:
                del self._by_rid[request.rid]
            else:
                self._waiting[request.klass].appendleft(request)
        self._running.clear()
        self._view = None
