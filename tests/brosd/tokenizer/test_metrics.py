"""`/metrics` has vLLM's names where they mean the same, and no name twice."""

from collections.abc import Callable

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bros.brosd import wire
from bros.brosd.latency import TTFT_BOUNDS_S, Series
from bros.brosd.tokenizer.metrics import render

Value = Callable[..., float]


@pytest.fixture
def value() -> Value:
    """Looks up the sample with a name and labels."""
    ttft = Series(TTFT_BOUNDS_S)
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
        be=wire.ClassStats(running=5, prefix_hit_tokens=16),
        kv=wire.KvStats(blocks_total=8, blocks_free=6),
        slo=wire.Slo(0.5, 0.08),
        rt_latency=wire.LatencyStats(ttft=ttft.distribution(0.0)),
        workers=[wire.WorkerStats("worker-0", True, blocks=wire.BlockMap(free=6, rt=2))],
    )
    text = render(stats).decode()
    found = [s for f in text_string_to_metric_families(text) for s in f.samples]
    values = {(s.name, frozenset(s.labels.items())): s.value for s in found}
    assert len(values) == len(found)
    return lambda name, **labels: values[name, frozenset(labels.items())]


def test_vllm_names(value: Value) -> None:
    rt, be = ({"model_name": "tiny", "class": klass} for klass in ("rt", "be"))
    assert value("vllm:num_requests_running", **be) == 5
    assert value("vllm:generation_tokens_total", **rt) == 30
    assert value("vllm:prefix_cache_hits_total", **be) == 16
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


def test_nothing_is_said_before_the_daemon_has() -> None:
    assert render(None) == b""
