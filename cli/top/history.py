"""Rates between snapshots of the daemon, and how they went."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from bros.brosd.client.client import Client, JobStatus, Stats

LENGTH = 600  # snapshots, which come once a second
SMOOTH = 5  # snapshots over which a shown rate is the mean


@dataclass(frozen=True)
class Rates:
    """Per second."""

    rt_tokens: float = 0.0
    be_tokens: float = 0.0
    rt_finished: float = 0.0
    be_finished: float = 0.0
    iterations: float = 0.0
    preempted_blocks: float = 0.0
    saved_blocks: float = 0.0
    restored_blocks: float = 0.0
    copy_bytes: float = 0.0
    recomputed_tokens: float = 0.0


@dataclass(frozen=True)
class Snapshot:
    """The daemon's report about itself, and the unfinished batch jobs, oldest first."""

    stats: Stats
    jobs: Sequence[JobStatus] = ()


def ask(client: Client) -> Snapshot | None:
    """Return the daemon's latest snapshot; None while it starts."""
    stats = client.status()
    if stats is None:
        return None
    return Snapshot(stats, [job for job in reversed(client.jobs()) if not job.is_over])


class History:
    """The latest snapshots; `stats` and `jobs` are of the last one."""

    def __init__(self, first: Snapshot) -> None:
        stats = first.stats
        self.stats, self.jobs = stats, first.jobs
        self._totals: deque[tuple[float, Rates]] = deque([_totals(stats)], maxlen=LENGTH)
        self._rates: deque[Rates] = deque(maxlen=LENGTH)
        self._used: deque[float] = deque([_used(stats)], maxlen=LENGTH)
        self._iteration_s: deque[float] = deque([stats.iteration_s], maxlen=LENGTH)

    def __len__(self) -> int:
        """Return the number of snapshots."""
        return len(self._totals)

    def add(self, snapshot: Snapshot) -> None:
        """Add a snapshot, unless it is the last one again."""
        stats, self.jobs = snapshot.stats, snapshot.jobs
        if stats.uptime_s == self.stats.uptime_s:
            return
        self.stats = stats
        self._totals.append(_totals(stats))
        self._rates.append(_between(self._totals[-2], self._totals[-1]))
        self._used.append(_used(stats))
        self._iteration_s.append(stats.iteration_s)

    @property
    def rates(self) -> Rates:
        """Mean rates over the last `SMOOTH` snapshots."""
        return _between(self._totals[-min(len(self._totals), SMOOTH + 1)], self._totals[-1])

    def course(self, name: str) -> list[float]:
        """Return the values of a rate, the oldest first."""
        return [getattr(rates, name) for rates in self._rates]

    @property
    def blocks_used(self) -> list[float]:
        """The share of used KV blocks at each snapshot, the oldest first."""
        return list(self._used)

    @property
    def iteration_s(self) -> list[float]:
        """The mean time of an iteration at each snapshot, the oldest first."""
        return list(self._iteration_s)

    def as_dict(self) -> dict[str, Any]:
        """Return the rates, for JSON."""
        return {f"{name}_per_s": value for name, value in asdict(self.rates).items()}


def extended(history: History | None, snapshot: Snapshot) -> History:
    """Return the history with one more snapshot; a restarted daemon begins a new history."""
    if history is None or snapshot.stats.uptime_s < history.stats.uptime_s:
        return History(snapshot)
    history.add(snapshot)
    return history


def _totals(stats: Stats) -> tuple[float, Rates]:
    kv = stats.kv
    return stats.uptime_s, Rates(
        rt_tokens=stats.rt.output_tokens,
        be_tokens=stats.be.output_tokens,
        rt_finished=stats.rt.finished,
        be_finished=stats.be.finished,
        iterations=stats.iterations,
        preempted_blocks=kv.preempted_blocks,
        saved_blocks=kv.saved_blocks,
        restored_blocks=kv.restored_blocks,
        copy_bytes=kv.copy_bytes,
        recomputed_tokens=kv.recomputed_tokens,
    )


def _between(first: tuple[float, Rates], last: tuple[float, Rates]) -> Rates:
    seconds = last[0] - first[0]
    if seconds <= 0:
        return Rates()
    names = [field.name for field in fields(Rates)]
    return Rates(*((getattr(last[1], n) - getattr(first[1], n)) / seconds for n in names))


def _used(stats: Stats) -> float:
    kv = stats.kv
    return 1 - kv.blocks_free / kv.blocks_total if kv.blocks_total else 0.0
