"""What happened between two statements of the daemon: rates, and how they went."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from bros.brosd.client.client import Client, JobStatus, Stats

LENGTH = 600  # statements, which come once a second
SMOOTH = 5  # of the latest make the rate that is shown


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
    """What the daemon says of itself, and of the batch jobs that are not over, oldest first."""

    stats: Stats
    jobs: Sequence[JobStatus] = ()


def ask(client: Client) -> Snapshot | None:
    """The daemon's latest statement; None while it starts."""
    stats = client.status()
    if stats is None:
        return None
    return Snapshot(stats, [job for job in reversed(client.jobs()) if not job.is_over])


class History:
    """The latest statements; `stats` and `jobs` are of the last one."""

    def __init__(self, first: Snapshot) -> None:
        stats = first.stats
        self.stats, self.jobs = stats, first.jobs
        self._totals: deque[tuple[float, Rates]] = deque([_totals(stats)], maxlen=LENGTH)
        self._rates: deque[Rates] = deque(maxlen=LENGTH)
        self._used: deque[float] = deque([_used(stats)], maxlen=LENGTH)
        self._iteration_s: deque[float] = deque([stats.iteration_s], maxlen=LENGTH)

    def __len__(self) -> int:
        """Statements that were taken."""
        return len(self._totals)

    def add(self, statement: Snapshot) -> None:
        """Take a statement, unless it is the one before once more."""
        stats, self.jobs = statement.stats, statement.jobs
        if stats.uptime_s == self.stats.uptime_s:
            return
        self.stats = stats
        self._totals.append(_totals(stats))
        self._rates.append(_between(self._totals[-2], self._totals[-1]))
        self._used.append(_used(stats))
        self._iteration_s.append(stats.iteration_s)

    @property
    def rates(self) -> Rates:
        """Of late."""
        return _between(self._totals[-min(len(self._totals), SMOOTH + 1)], self._totals[-1])

    def course(self, name: str) -> list[float]:
        """How a rate went, the oldest first."""
        return [getattr(rates, name) for rates in self._rates]

    @property
    def blocks_used(self) -> list[float]:
        """How the share of used KV blocks went."""
        return list(self._used)

    @property
    def iteration_s(self) -> list[float]:
        """How the mean time of an iteration went."""
        return list(self._iteration_s)

    def as_dict(self) -> dict[str, Any]:
        """Rates, for JSON."""
        return {f"{name}_per_s": value for name, value in asdict(self.rates).items()}


def extended(history: History | None, statement: Snapshot) -> History:
    """The history with a statement more; a daemon that has started again begins a new one."""
    if history is None or statement.stats.uptime_s < history.stats.uptime_s:
        return History(statement)
    history.add(statement)
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
