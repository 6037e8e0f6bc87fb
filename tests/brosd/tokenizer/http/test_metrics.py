"""`/metrics` has vLLM's names where they mean the same, and no name twice."""

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from bros.brosd.protocol import wire
from bros.brosd.scheduling.latency import TPOT_BOUNDS_S, TTFT_BOUNDS_S, Series
from bros.brosd.tokenizer.http.metrics import render
from bros.kv import Klass

Value = Callable[..., float]
DASHBOARD = Path(__file__).parents[4] / "docs" / "grafana" / "bros.json"


@pytest.fixture
def samples() -> list[Sample]:
    """The samples of one scrape."""
    ttft = Series(TTFT_BOUNDS_S)
    tpot = Series(TPOT_BOUNDS_S)
    for value_s in (0.03, 0.3, 3000.0):
        ttft.add(0.0, value_s)
    stats = wire.Stats(
        state="ready",
        model="tiny",
        policy="bros",
        uptime_s=1.0,
        max_len=512,
        iterations=9,
        iteration_s=0.02,
        scheduling_s=0.1,
        prediction_error=0.1,
        prediction_error_p95=0.2,
        worker_restarts=0,
        tokenizer_restarts=0,
        rt=wire.ClassStats(running=2, output_tokens=30),
        be=wire.ClassStats(running=5, prefix_hit_tokens=16, preemptions=3),
        kv=wire.KvStats(blocks_total=8, blocks_free=6),
        slo=wire.Slo(0.5, 0.08),
        rt_latency=wire.LatencyStats(ttft=ttft.distribution(0.0), tpot=tpot.distribution(0.0)),
        workers=[wire.WorkerStats("worker-0", True, blocks=wire.BlockMap(free=6, rt=2))],
    )
    ends = Counter({(Klass.RT, "stop"): 4, (Klass.BE, "abort"): 1})
    text = render(stats, ends).decode()
    return [s for f in text_string_to_metric_families(text) for s in f.samples]


@pytest.fixture
def value(samples: list[Sample]) -> Value:
    """Return a function that looks up a sample by its name and labels."""
    values = {(s.name, frozenset(s.labels.items())): s.value for s in samples}
    assert len(values) == len(samples)
    return lambda name, **labels: values[name, frozenset(labels.items())]


def test_vllm_names(value: Value) -> None:
    rt, be = ({"model_name": "tiny", "class": klass} for klass in ("rt", "be"))
    assert value("vllm:num_requests_running", **be) == 5
    assert value("vllm:generation_tokens_total", **rt) == 30
    assert value("vllm:prefix_cache_hits_total", **be) == 16
    assert value("vllm:request_success_total", **rt, finished_reason="stop") == 4
    assert value("vllm:request_success_total", **be, finished_reason="abort") == 1
    assert value("vllm:num_preemptions_total", **be) == 3
    assert value("vllm:kv_cache_usage_perc", model_name="tiny") == 0.25
    ttft = "vllm:time_to_first_token_seconds"
    assert value(f"{ttft}_bucket", **rt, le="0.04") == 1
    assert value(f"{ttft}_bucket", **rt, le="0.5") == 2
    assert value(f"{ttft}_bucket", **rt, le="+Inf") == 3
    assert value(f"{ttft}_count", **rt) == 3
    assert value(f"{ttft}_sum", **rt) == pytest.approx(3000.33)


def test_our_names(value: Value) -> None:
    assert value("bros_requests_running", **{"class": "rt"}) == 2
    assert value("bros_kv_blocks", worker="worker-0", use="rt") == 2
    assert value("bros_slo_seconds", objective="tpot") == 0.08


def test_the_dashboard_asks_only_for_metrics_that_exist(samples: list[Sample]) -> None:
    labels: dict[str, set[str]] = {}
    for sample in samples:
        labels.setdefault(sample.name, set()).update({*sample.labels, "instance"})
    panels = json.loads(DASHBOARD.read_text())["panels"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    selectors = [found for query in queries for found in re.findall(r"([a-z_:]+)\{(.*?)\}", query)]
    assert len(selectors) >= len(queries) >= 20
    for name, matchers in selectors:
        assert name in labels, f"{name} is not exposed"
        wanted = {matcher.split("=")[0] for matcher in matchers.split(",")}
        assert wanted <= labels[name], f"{name} has no {wanted - labels[name]}"


def test_nothing_is_said_before_the_daemon_has() -> None:
    assert render(None, Counter()) == b""
