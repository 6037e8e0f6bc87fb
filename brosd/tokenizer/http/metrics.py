"""`/metrics`: the daemon's statistics in the Prometheus text format.

What vLLM also measures is there under vLLM's name as well (`vllm:...`), with a label for the class,
so that dashboards and autoscalers made for vLLM work. All other names begin with `bros_`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from bros.brosd.protocol.wire import BlockMap, ClassStats, Distribution, KvStats, Stats
from bros.brosd.scheduling.latency import BOUNDS_S
from bros.brosd.tokenizer.generation.live_requests import Ends
from bros.kv import Klass

CONTENT_TYPE = CONTENT_TYPE_LATEST
REASONS = ("stop", "length", "abort", "error")
STATES = ("starting", "ready", "draining")
GAUGES = {
    "running",
    "waiting",
    "blocks_total",
    "blocks_free",
    "host_blocks_total",
    "host_blocks_used",
}
VLLM_PER_CLASS = {
    "running": "vllm:num_requests_running",
    "waiting": "vllm:num_requests_waiting",
    "prompt_tokens": "vllm:prompt_tokens",
    "output_tokens": "vllm:generation_tokens",
    "preemptions": "vllm:num_preemptions",
    "prefix_asked_tokens": "vllm:prefix_cache_queries",
    "prefix_hit_tokens": "vllm:prefix_cache_hits",
}
VLLM_HISTOGRAMS = {
    "ttft": "vllm:time_to_first_token_seconds",
    "tpot": "vllm:request_time_per_output_token_seconds",
    "itl": "vllm:inter_token_latency_seconds",
    "e2e": "vllm:e2e_request_latency_seconds",
}


class _Statistics(Collector):
    """One scrape's metrics."""

    def __init__(self, stats: Stats, ends: Ends) -> None:
        self._stats = stats
        self._ends = ends

    def collect(self) -> Iterator[Metric]:
        stats = self._stats
        yield from _daemon(stats)
        yield from _objectives(stats)
        for field in ClassStats.__struct_fields__:
            noun = "requests_" if field in ("running", "waiting", "finished", "in_time") else ""
            yield _per_class(f"bros_{noun}{_unit(field)}", field, stats)
        for field in KvStats.__struct_fields__:
            yield _family(f"bros_kv_{_unit(field)}", field, getattr(stats.kv, field))
        yield _block_states(stats)
        yield from _vllm(stats)
        yield _ends(stats, self._ends)


def _daemon(stats: Stats) -> Iterator[Metric]:
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
    restarts.add_metric(["daemon"], stats.daemon_restarts)
    yield restarts
    bugs = CounterMetricFamily("bros_internal_errors", "Bugs that were survived", labels=["where"])
    bugs.add_metric(["plans"], stats.planning_faults)
    bugs.add_metric(["events"], stats.internal_errors)
    yield bugs


def _objectives(stats: Stats) -> Iterator[Metric]:
    objective = GaugeMetricFamily(
        "bros_slo_seconds",
        "Objective of real-time requests that name none",
        labels=["objective"],
    )
    objective.add_metric(["ttft"], stats.slo.ttft_s)
    objective.add_metric(["tpot"], stats.slo.tpot_s)
    yield objective


def _block_states(stats: Stats) -> Metric:
    family = GaugeMetricFamily(
        "bros_kv_blocks", "Blocks by what they are used for", labels=["worker", "use"]
    )
    for worker in stats.workers:
        for use in BlockMap.__struct_fields__:
            if use != "cells":
                family.add_metric([worker.name, use], getattr(worker.blocks, use))
    return family


# -- vLLM's names -------------------------------------------------------------------------------


def _vllm(stats: Stats) -> Iterator[Metric]:
    for field, name in VLLM_PER_CLASS.items():
        yield _per_class(name, field, stats, model=True)
    for field, name in VLLM_HISTOGRAMS.items():
        yield _histogram(name, field, stats)
    labels = ["model_name"]
    used = 1 - stats.kv.blocks_free / stats.kv.blocks_total if stats.kv.blocks_total else 0.0
    usage = GaugeMetricFamily(
        "vllm:kv_cache_usage_perc", "Share of KV blocks in use, 1 is all", labels=labels
    )
    usage.add_metric([stats.model], used)
    yield usage


def _ends(stats: Stats, ends: Ends) -> Metric:
    """Requests that are over. vLLM counts aborted and failed ones under this name as well."""
    family = CounterMetricFamily(
        "vllm:request_success",
        "Requests that are over, since the tokenizer process started",
        labels=["model_name", "class", "finished_reason"],
    )
    for klass in Klass:
        for reason in REASONS:
            family.add_metric([stats.model, klass.name.lower(), reason], ends[klass, reason])
    return family


def _histogram(name: str, field: str, stats: Stats) -> Metric:
    family = HistogramMetricFamily(name, _HELP[field], labels=["model_name", "class"])
    for klass, latency in (("rt", stats.rt_latency), ("be", stats.be_latency)):
        seen: Distribution = getattr(latency, field)
        if seen.counts:
            family.add_metric([stats.model, klass], _buckets(field, seen), sum_value=seen.sum_s)
    return family


def _buckets(field: str, seen: Distribution) -> list[tuple[str, float]]:
    """Prometheus's buckets are cumulative: each counts the smaller values as well."""
    bounds = [*(str(bound_s) for bound_s in BOUNDS_S[field]), "+Inf"]
    return list(zip(bounds, map(float, accumulate(seen.counts)), strict=True))


_HELP = {
    "ttft": "From a request's arrival to its first token",
    "tpot": "Mean time of a request's tokens after the first",
    "itl": "From one token of a request to its next",
    "e2e": "From a request's arrival to its last token",
}


# -- pieces -------------------------------------------------------------------------------------


def _per_class(name: str, field: str, stats: Stats, *, model: bool = False) -> Metric:
    kind = GaugeMetricFamily if field in GAUGES else CounterMetricFamily
    family = kind(name, _help(field), labels=["model_name", "class"] if model else ["class"])
    for klass, row in (("rt", stats.rt), ("be", stats.be)):
        labels = [stats.model, klass] if model else [klass]
        family.add_metric(labels, getattr(row, field))
    return family


def _family(name: str, field: str, value: float) -> Metric:
    kind = GaugeMetricFamily if field in GAUGES else CounterMetricFamily
    return kind(name, _help(field), value=value)


def _unit(field: str) -> str:
    """The field's name with its unit spelled out, as is usual with Prometheus."""
    return field.removesuffix("_s") + "_seconds" if field.endswith("_s") else field


def _help(field: str) -> str:
    return field.removesuffix("_s").replace("_", " ").capitalize()


def render(stats: Stats | None, ends: Ends) -> bytes:
    """The text of one scrape; empty while the daemon has not said anything."""
    registry = CollectorRegistry()
    if stats is not None:
        registry.register(_Statistics(stats, ends))
    text: bytes = generate_latest(registry)
    return text
