"""Which worker gets a request: the one that is expected to finish it soonest.

Pure, as the scheduler is. A request is booked at its worker with the seconds that it is expected to
take there, until it ends: so a worker's load is a sum that costs little to keep.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from bros.brosd.scheduling.request import Request
from bros.brosd.scheduling.scheduler import Scheduler
from bros.kv import Klass, TokenChain

SMOOTHING = 0.05
TYPICAL_OUTPUT = 64.0  # tokens, until some requests have ended
BE_SHARE = 0.1  # the share of best-effort load that delays a real-time request


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
    """A request is at `place`, and is expected to take `seconds` of its time."""

    place: WorkerLoad
    request: Request
    seconds: float


class Placement:
    """Knows where each request is, and how much is booked at each place."""

    def __init__(self, places: Sequence[WorkerLoad]) -> None:
        self._places = places
        self._bookings: dict[int, Booking] = {}
        self._output = dict.fromkeys(Klass, TYPICAL_OUTPUT)

    def candidates(self, request: Request) -> list[WorkerLoad]:
        """Return where the request can go, the best place first; only if none serves, any place."""
        places = [place for place in self._places if not place.lost]
        serving = [place for place in places if place.up]
        return sorted(serving or places, key=lambda place: self._done_s(place, request))

    def book(self, place: WorkerLoad, request: Request) -> None:
        """Note that the request is there from now on."""
        seconds = self._own_s(place, request)
        place.load_s[request.klass] += seconds
        self._bookings[request.rid] = Booking(place, request, seconds)

    def place_of(self, rid: int) -> WorkerLoad | None:
        """Return where a request is; None if it has ended."""
        booking = self._bookings.get(rid)
        return booking.place if booking else None

    def release(self, rid: int) -> None:
        """Note that the request has ended, or goes elsewhere. Idempotent."""
        booking = self._bookings.pop(rid, None)
        if booking is None:
            return
        klass, load_s = booking.request.klass, booking.place.load_s
        load_s[klass] = max(0.0, load_s[klass] - booking.seconds)

    def finish(self, rids: Iterable[int]) -> None:
        """Note that the requests have all their tokens, and learn the typical length from them."""
        for rid in rids:
            if booking := self._bookings.get(rid):
                klass, length = booking.request.klass, booking.request.num_output
                self._output[klass] += SMOOTHING * (length - self._output[klass])
            self.release(rid)

    def clear(self) -> None:
        """Note that no request is left anywhere."""
        self._bookings.clear()
        for place in self._places:
            place.load_s = _loads()

    def _done_s(self, place: WorkerLoad, request: Request) -> float:
        """Return in how many seconds the place is expected to finish the request."""
        return self._before_s(place, request.klass) + self._own_s(place, request)

    @staticmethod
    def _before_s(place: WorkerLoad, klass: Klass) -> float:
        """Return the seconds booked there that a request of this class has to wait for."""
        share = BE_SHARE if klass is Klass.RT else 1.0
        return place.load_s[Klass.RT] + share * place.load_s[Klass.BE]

    def _own_s(self, place: WorkerLoad, request: Request) -> float:
        """Return the seconds of the request's uncached prefill and of a typical output."""
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
