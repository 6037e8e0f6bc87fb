"""How well requests met their objectives: figures that several screens show."""

from __future__ import annotations

from bros.brosd.client.client import ClassStats, Distribution, LatencyStats


def attainment(row: ClassStats) -> float | None:
    """Return the share of finished requests that met their objectives; None if none finished."""
    return row.in_time / row.finished if row.finished else None


def recent_attainment(latency: LatencyStats) -> float | None:
    """Return this share for the requests of the last minute."""
    if not latency.recent_finished:
        return None
    return latency.recent_in_time / latency.recent_finished


def percentiles(seen: Distribution) -> list[tuple[str, float | None]]:
    """Return the name of each percentile and its value in seconds; None if nothing was seen."""
    return [("p50", seen.p50_s), ("p95", seen.p95_s), ("p99", seen.p99_s)]
