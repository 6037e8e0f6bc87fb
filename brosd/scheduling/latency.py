"""How long requests wait for tokens: histograms since the start, percentiles of the last minute.

One instance serves all schedulers of a daemon, so nothing has to be merged. The buckets are those
of vLLM, so that dashboards made for vLLM can be used.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from bros.brosd.protocol.wire import Distribution, LatencyStats
from bros.brosd.scheduling.request import Request
from bros.kv import Klass

WINDOW_S = 60.0
WINDOW_LENGTH = 2048  # values; if there are more, the oldest are left out

# fmt: off
TTFT_BOUNDS_S = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
)
TPOT_BOUNDS_S = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0,
)
E2E_BOUNDS_S = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0,
    240.0, 480.0, 960.0, 1920.0, 7680.0,
)
# fmt: on
BOUNDS_S = {
    "ttft": TTFT_BOUNDS_S,
    "tpot": TPOT_BOUNDS_S,
    "itl": TPOT_BOUNDS_S,
    "e2e": E2E_BOUNDS_S,
}


class Series:
    """One kind of duration: counts per bucket of all, and exact values of the last minute."""

    def __init__(self, bounds_s: tuple[float, ...]) -> None:
        self._bounds_s = bounds_s
        self._counts = [0] * (len(bounds_s) + 1)
        self._sum_s = 0.0
        self._recent: deque[tuple[float, float]] = deque(maxlen=WINDOW_LENGTH)

    def add(self, now_s: float, value_s: float) -> None:
        """Add one duration; a negative one, which a clock can cause, counts as 0."""
        value_s = max(0.0, value_s)
        self._counts[bisect_left(self._bounds_s, value_s)] += 1
        self._sum_s += value_s
        self._recent.append((now_s, value_s))

    def distribution(self, now_s: float) -> Distribution:
        """Return what has been added, as the message that carries it."""
        while self._recent and now_s - self._recent[0][0] > WINDOW_S:
            self._recent.popleft()
        ordered = sorted(value_s for _, value_s in self._recent)
        return Distribution(
            counts=list(self._counts),
            sum_s=self._sum_s,
            recent=len(ordered),
            p50_s=percentile(ordered, 0.50),
            p95_s=percentile(ordered, 0.95),
            p99_s=percentile(ordered, 0.99),
        )


def percentile(ordered: list[float], share: float) -> float | None:
    """Return the smallest value that at least `share` of all do not exceed; None if empty."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None


@dataclass
class ClassLatency:
    """Durations of the requests of one class."""

    ttft: Series = field(default_factory=lambda: Series(TTFT_BOUNDS_S))
    tpot: Series = field(default_factory=lambda: Series(TPOT_BOUNDS_S))
    itl: Series = field(default_factory=lambda: Series(TPOT_BOUNDS_S))
    e2e: Series = field(default_factory=lambda: Series(E2E_BOUNDS_S))
    ends: deque[tuple[float, bool]] = field(default_factory=lambda: deque(maxlen=WINDOW_LENGTH))


@dataclass
class Latencies:
    """Durations of both classes."""

    clock: Callable[[], float] = time.monotonic
    _of: dict[Klass, ClassLatency] = field(
        default_factory=lambda: {klass: ClassLatency() for klass in Klass}
    )

    def token(self, request: Request, now_s: float) -> None:
        """Note that the request gets a token; call this before `first_s` and `last_s` change."""
        seen = self._of[request.klass]
        if request.last_s is None:
            seen.ttft.add(now_s, now_s - request.arrived_s)
        else:
            seen.itl.add(now_s, now_s - request.last_s)

    def finished(self, request: Request) -> None:
        """Note that the request has all its tokens."""
        if request.first_s is None or request.last_s is None:
            return
        seen = self._of[request.klass]
        seen.e2e.add(request.last_s, request.last_s - request.arrived_s)
        if request.num_output > 1:
            tpot_s = (request.last_s - request.first_s) / (request.num_output - 1)
            seen.tpot.add(request.last_s, tpot_s)
        seen.ends.append((request.last_s, request.in_time))

    def stats(self, klass: Klass) -> LatencyStats:
        """Return the statistics of one class."""
        seen, now_s = self._of[klass], self.clock()
        while seen.ends and now_s - seen.ends[0][0] > WINDOW_S:
            seen.ends.popleft()
        return LatencyStats(
            ttft=seen.ttft.distribution(now_s),
            tpot=seen.tpot.distribution(now_s),
            itl=seen.itl.distribution(now_s),
            e2e=seen.e2e.distribution(now_s),
            recent_finished=len(seen.ends),
            recent_in_time=sum(in_time for _, in_time in seen.ends),
        )
