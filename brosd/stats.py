"""What the daemon reports of itself: sums over its workers, and a line for each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import TypeVar

import msgspec

from bros.brosd.fleet.fleet import Fleet
from bros.brosd.protocol.wire import ClassStats, KvStats, Stats
from bros.kv import Klass

P = TypeVar("P", ClassStats, KvStats)


def added_up(parts: Sequence[P]) -> P:
    """Return the sum of each field."""
    columns = zip(*(msgspec.structs.astuple(part) for part in parts), strict=True)
    return type(parts[0])(*(sum(column) for column in columns))


def report(about: Stats, fleet: Fleet) -> Stats:
    """Return `about` with everything that is known of the workers filled in."""
    workers = list(fleet)
    errors = [worker.scheduler.cost.relative_errors for worker in workers]
    return msgspec.structs.replace(
        about,
        max_len=shortest(worker.max_len for worker in workers),
        vocab_size=shortest(worker.vocab_size for worker in workers),
        iterations=sum(worker.iterations for worker in workers),
        iteration_s=_mean(worker.mean_step_s for worker in workers),
        prediction_error=_mean(error for error, _ in errors),
        prediction_error_p95=max(p95 for _, p95 in errors),
        worker_restarts=sum(worker.child.restarts for worker in workers),
        rt=added_up([worker.scheduler.stats(Klass.RT) for worker in workers]),
        be=added_up([worker.scheduler.stats(Klass.BE) for worker in workers]),
        kv=added_up([worker.scheduler.kv_stats() for worker in workers]),
        rt_latency=fleet.latencies.stats(Klass.RT),
        be_latency=fleet.latencies.stats(Klass.BE),
        workers=[worker.stats() for worker in workers],
        planning_faults=sum(worker.scheduler.planning_faults for worker in workers),
    )


def in_a_line(stats: Stats) -> str:
    """The daemon for `systemctl status`."""
    rt, be = stats.rt, stats.be
    return (
        f"{stats.state}: {rt.running}+{be.running} requests running (real-time+best-effort), "
        f"{rt.waiting}+{be.waiting} waiting"
    )


def shortest(lengths: Iterable[int]) -> int:
    """Return the length or size that suits every worker, as far as known; 0 if none is known."""
    return min((length for length in lengths if length), default=0)


def _mean(figures: Iterable[float]) -> float:
    """Return the mean of the figures that are not 0, which is a worker that has done nothing."""
    known = [figure for figure in figures if figure]
    return fmean(known) if known else 0.0
