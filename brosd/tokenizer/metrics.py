"""`/metrics`: the daemon's statistics in the Prometheus text format."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from bros.brosd.wire import ClassStats, KvStats, Stats, WorkerStats

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
        yield from _per_worker(stats.workers)
        for field in ClassStats.__struct_fields__:
            yield _per_class(field, stats)
        for field in KvStats.__struct_fields__:
            yield _family(f"bros_kv_{_unit(field)}", field, getattr(stats.kv, field))


def _per_worker(workers: list[WorkerStats]) -> Iterator[Metric]:
    """What tells one worker from another; sums are in the other families."""
    up = GaugeMetricFamily("bros_worker_up", "1 while it serves", labels=["worker", "device"])
    requests = GaugeMetricFamily(
        "bros_worker_requests", "Requests that it has", labels=["worker", "state"]
    )
    iterations = CounterMetricFamily(
        "bros_worker_iterations", "Iterations that it has run", labels=["worker"]
    )
    used = GaugeMetricFamily("bros_worker_kv_blocks_used", "Blocks in use", labels=["worker"])
    for worker in workers:
        name = str(worker.worker)
        up.add_metric([name, worker.device], float(worker.state == "ready"))
        requests.add_metric([name, "running"], worker.running)
        requests.add_metric([name, "waiting"], worker.waiting)
        iterations.add_metric([name], worker.iterations)
        used.add_metric([name], worker.blocks_total - worker.blocks_free)
    yield from (up, requests, iterations, used)


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
