"""Which worker gets a request: the one that is likely to be done with it first.

Pure, as the scheduler is. A request is booked with the seconds that it is likely to take of its
worker, and its booking ends with it: so a worker's load is a sum that costs nothing to keep.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from bros.brosd.scheduling.request import Request
from bros.brosd.scheduling.scheduler import Scheduler
from bros.kv import Klass, TokenChain

SMOOTHING = 0.05
TYPICAL_OUTPUT = 64.0  # tokens, until some requests have ended
BE_SHARE = 0.1  # of best-effort's load that counts for a real-time request, which goes first


def _loads() -> dict[Klass, float]:
    return dict.fromkeys(Klass, 0.0)


@dataclass
class WorkerLoad:
    """One worker as placement sees it. `up` while it serves, `lost` when it is given up."""

    scheduler: Scheduler
    up: bool = False
    lost: bool = False
    load_s: dict[Klass, float] = field(default_factory=_loads)


@dataclass(frozen=True)
class Booking:
    """A request is at `place`, and likely to take `seconds` of it."""

    place: WorkerLoad
    request: Request
    seconds: float


class Placement:
    """Knows where each request is. `candidates` tells, `book` and `release` keep count."""

    def __init__(self, places: Sequence[WorkerLoad]) -> None:
        self._places = places
        self._bookings: dict[int, Booking] = {}
        self._output = dict.fromkeys(Klass, TYPICAL_OUTPUT)

    def candidates(self, request: Request) -> list[WorkerLoad]:
        """Where the request can go, the best place first; workers that serve before others."""
        places = [place for place in self._places if not place.lost]
        serving = [place for place in places if place.up]
        return sorted(serving or places, key=lambda place: self._done_s(place, request))

    def book(self, place: WorkerLoad, request: Request) -> None:
        """The request is there from now on."""
        seconds = self._own_s(place, request)
        place.load_s[request.klass] += seconds
        self._bookings[request.rid] = Booking(place, request, seconds)

    def place_of(self, rid: int) -> WorkerLoad | None:
        """Where a request is; None if it has ended."""
        booking = self._bookings.get(rid)
        return booking.place if booking else None

    def release(self, rid: int) -> None:
        """The request has ended, or goes elsewhere. Idempotent."""
        booking = self._bookings.pop(rid, None)
        if booking is None:
            return
        klass, load_s = booking.request.klass, booking.place.load_s
        load_s[klass] = max(0.0, load_s[klass] - booking.seconds)

    def finish(self, rids: Iterable[int]) -> None:
        """The requests have all their tokens: what is typical is learnt from them."""
        for rid in rids:
            if booking := self._bookings.get(rid):
                klass, length = booking.request.klass, booking.request.num_output
                self._output[klass] += SMOOTHING * (length - self._output[klass])
            self.release(rid)

    def clear(self) -> None:
        """No request is left anywhere."""
        self._bookings.clear()
        for place in self._places:
            place.load_s = _loads()

    def _done_s(self, place: WorkerLoad, request: Request) -> float:
        """When the place is likely to be done with the request, in seconds from now."""
        return self._before_s(place, request.klass) + self._own_s(place, request)

    @staticmethod
    def _before_s(place: WorkerLoad, klass: Klass) -> float:
        """What is booked there, as far as a request of this class shares the worker with it."""
        share = BE_SHARE if klass is Klass.RT else 1.0
        return place.load_s[Klass.RT] + share * place.load_s[Klass.BE]

    def _own_s(self, place: WorkerLoad, request: Request) -> float:
        """The request's own prefill, less the prefix that is there, and its typical output."""
        cost, known = place.scheduler.cost, len(request.tokens)
        cached = min(_cached_tokens(place, request), known - 1)
        left = request.max_tokens - request.num_output
        decodes = max(0.0, min(left, self._output[request.klass]) - 1)
        return cost.chunk_s(cached, known - cached) + decodes * cost.chunk_s(known, 1)


def _cached_tokens(place: WorkerLoad, request: Request) -> int:
    allocator = place.scheduler.allocator
    if allocator is None:
        return 0
    return allocator.cached_tokens(TokenChain(request.tokens, allocator.block_size))
