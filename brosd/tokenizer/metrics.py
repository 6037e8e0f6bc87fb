"""`/metrics`: the daemon's statistics in the Prometheus text format."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from bros.brosd.wire import ClassStats, KvStats, Stats

CONTENT_TYPE = CONTENT_TYPE_LATEST
STATES = ("starting", "ready", "draining")
GAUGES = {
    "running",
    "waiting",
    "blocks_total",
    "blocks_free",
    "host_blocks_total",
    "host_blocks_used",
}


class _Statistics(Collector):
    """One scrape's metrics."""

    def __init__(self, stats: Stats) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        stats = self._stats
        state = GaugeMetricFamily("bros_state", "1 for the daemon's state", labels=["state"])
        for name in STATES:
            state.add_metric([name], float(stats.state == name))
        yield state
        yield GaugeMetricFamily("bros_uptime_seconds", "Since the start", value=stats.uptime_s)
        yield CounterMetricFamily("bros_iterations", "Iterations run", value=stats.iterations)
        yield GaugeMetricFamily(
            "bros_iteration_seconds", "Mean of the last second", value=stats.iteration_s
        )
        yield CounterMetricFamily(
            "bros_scheduling_seconds",
            "The daemon's own time, from an iteration's tokens to the next plan",
            value=stats.scheduling_s,
        )
        error = GaugeMetricFamily(
            "bros_prediction_error",
            "Of iteration times: |predicted - measured| / measured, recent iterations",
            labels=["statistic"],
        )
        error.add_metric(["mean"], stats.prediction_error)
        error.add_metric(["p95"], stats.prediction_error_p95)
        yield error
        restarts = CounterMetricFamily("bros_restarts", "Restarted processes", labels=["process"])
        restarts.add_metric(["worker"], stats.worker_restarts)
        restarts.add_metric(["tokenizer"], stats.tokenizer_restarts)
        yield restarts
        for field in ClassStats.__struct_fields__:
            yield _per_class(field, stats)
        for field in KvStats.__struct_fields__:
            yield _family(f"bros_kv_{_unit(field)}", field, getattr(stats.kv, field))


def _per_class(field: str, stats: Stats) -> Metric:
    kind = GaugeMetricFamily if field in GAUGES else CounterMetricFamily
    noun = "requests_" if field in ("running", "waiting", "finished", "in_time") else ""
    family = kind(f"bros_{noun}{_unit(field)}", _help(field), labels=["class"])
    family.add_metric(["rt"], getattr(stats.rt, field))
    family.add_metric(["be"], getattr(stats.be, field))
    return family


def _family(name: str, field: str, value: float) -> Metric:
    kind = GaugeMetricFamily if field in GAUGES else CounterMetricFamily
    return kind(name, _help(field), value=value)


def _unit(field: str) -> str:
    """Prometheus spells units out."""
    return field.removesuffix("_s") + "_seconds" if field.endswith("_s") else field


def _help(field: str) -> str:
    return field.removesuffix("_s").replace("_", " ").capitalize()


def render(stats: Stats | None) -> bytes:
    """The text of one scrape; empty while the daemon has not said anything."""
    registry = CollectorRegistry()
    if stats is not None:
        registry.register(_Statistics(stats))
    text: bytes = generate_latest(registry)
    return text
