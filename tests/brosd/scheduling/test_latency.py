"""Histograms keep everything, percentiles forget what is older than a minute."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bros.brosd.protocol.wire import Admit, Sampling, Slo, pack_ids
from bros.brosd.scheduling.latency import TTFT_BOUNDS_S, WINDOW_S, Latencies, Series, percentile
from bros.brosd.scheduling.request import Request
from bros.kv import Klass


def request(klass: Klass = Klass.RT, slo: Slo | None = None) -> Request:
    return Request.of(Admit(1, klass, 100.0, pack_ids([1, 2]), 9, Sampling(), slo=slo))


def run(latencies: Latencies, request: Request, *times_s: float) -> None:
    """The request gets its tokens at these times, as the scheduler would say it."""
    for now_s in times_s:
        latencies.token(request, now_s)
        request.first_s = request.first_s or now_s
        request.last_s = now_s
        request.append(7, max_len=99)
    latencies.finished(request)


def test_a_request_is_seen_in_every_series() -> None:
    latencies = Latencies(clock=lambda: 101.0)
    run(latencies, request(slo=Slo(0.5, 0.25)), 100.3, 100.4, 100.7)
    stats = latencies.stats(Klass.RT)
    assert stats.ttft.p99_s == pytest.approx(0.3)
    assert stats.tpot.p50_s == pytest.approx(0.2)
    assert stats.itl.recent == 2
    assert stats.itl.p50_s == pytest.approx(0.1)
    assert stats.e2e.sum_s == pytest.approx(0.7)
    assert (stats.recent_finished, stats.recent_in_time) == (1, 1)
    assert latencies.stats(Klass.BE).ttft.recent == 0


def test_a_single_token_has_no_tpot() -> None:
    latencies = Latencies(clock=lambda: 101.0)
    run(latencies, request(Klass.BE), 100.3)
    stats = latencies.stats(Klass.BE)
    assert (stats.ttft.recent, stats.tpot.recent, stats.e2e.recent) == (1, 0, 1)
    assert (stats.recent_finished, stats.recent_in_time) == (1, 0)


def test_percentiles_are_of_the_last_minute_and_buckets_of_all_time() -> None:
    now_s = 101.0
    latencies = Latencies(clock=lambda: now_s)
    run(latencies, request(), 100.3, 100.4)
    now_s += WINDOW_S
    stats = latencies.stats(Klass.RT)
    assert (stats.ttft.recent, stats.ttft.p50_s, stats.recent_finished) == (0, None, 0)
    assert sum(stats.ttft.counts) == 1


@given(st.lists(st.floats(0, 10_000), min_size=1))
def test_every_value_is_in_its_bucket(values: list[float]) -> None:
    series = Series(TTFT_BOUNDS_S)
    for value in values:
        series.add(0.0, value)
    counts = series.distribution(0.0).counts
    for index, bound in enumerate(TTFT_BOUNDS_S):
        assert sum(counts[: index + 1]) == sum(value <= bound for value in values)
    assert sum(counts) == len(values)


def test_percentiles_are_values_that_were_seen() -> None:
    ordered = [float(n) for n in range(1, 101)]
    assert (percentile(ordered, 0.5), percentile(ordered, 0.99)) == (50, 99)
    assert (percentile([3.0], 0.5), percentile([], 0.5)) == (3, None)
