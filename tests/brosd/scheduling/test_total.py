"""Whatever clocks, loads and coefficients say, the scheduler's functions return: none raises.

`BROS_TEST_PLANS=10_000_000 pytest -s tests/brosd/scheduling/test_total.py` makes as many plans.
"""

import math
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bros.brosd.config import PolicyName
from bros.brosd.fleet.placement import Placement, WorkerLoad
from bros.brosd.protocol.wire import Admit, Sampling, Slo, pack_ids
from bros.brosd.scheduling.budget import Budget
from bros.brosd.scheduling.cost_model import MANY, CostModel, IterationLoad
from bros.brosd.scheduling.limits import Limits
from bros.brosd.scheduling.registry import POLICIES
from bros.brosd.scheduling.request import Request
from bros.brosd.scheduling.scheduler import Scheduler
from bros.kv import Klass
from plan_stress import stress

NUM_PLANS = int(os.environ.get("BROS_TEST_PLANS", "3_000"))

any_cost = st.floats(0, 1e12)
coefficients = st.tuples(*[any_cost] * 6)
positions = st.integers(0, 2**31)
times_s = st.floats()  # nan and both infinities too
clocks_s = st.floats(-1e300, 1e300)
objectives_s = st.floats(0, 1e300)
loads = st.builds(
    IterationLoad,
    st.integers(0, 10**6),
    st.integers(0, 10**6),
    st.integers(0, 10**12),
    st.floats(0, 1e15),
    st.integers(0, 10**6),
)


@pytest.mark.timeout(0)
def test_no_plan_raises_whatever_the_clock_does(tmp_path: Path) -> None:
    assert stress(tmp_path, NUM_PLANS) >= NUM_PLANS


@given(coefficients, positions, times_s)
def test_the_cost_of_a_chunk_has_an_inverse(
    each: tuple[float, ...], start: int, seconds: float
) -> None:
    cost = CostModel(each)
    count = cost.count_within(start, seconds)
    assert 0 <= count <= MANY
    assert cost.chunk_s(start, 1) >= 0
    if 2 <= count < MANY:
        assert cost.chunk_s(start, count) <= seconds * (1 + 1e-9)


def test_prefill_that_costs_nothing_has_no_bound() -> None:
    assert CostModel((0.02, 1e-3, 0.0, 0.0, 0.0, 0.0)).count_within(0, 1.0) == MANY


@given(coefficients, st.lists(st.tuples(loads, times_s), max_size=30), loads)
def test_predictions_are_finite_whatever_was_measured(
    each: tuple[float, ...], measured: list[tuple[IterationLoad, float]], load: IterationLoad
) -> None:
    cost = CostModel(each)
    for index, (seen, seconds) in enumerate(measured):
        (cost.learn if index % 3 == 2 else cost.observe)(seen, seconds)
        if index == 5:
            cost.keep()
    cost.fit()
    assert 0 <= cost.predict(load) < math.inf
    assert 0 <= cost.margin_s < math.inf
    assert all(0 <= error < math.inf for error in cost.relative_errors)


@given(
    coefficients,
    times_s,
    st.lists(st.tuples(positions, st.integers(1, 10**5), st.booleans()), max_size=8),
    times_s,
    times_s,
)
def test_budgets_grant_what_can_be_computed(
    each: tuple[float, ...],
    limit_s: float,
    chunks: list[tuple[int, int, bool]],
    narrow_s: float,
    least_s: float,
) -> None:
    budget = Budget(CostModel(each), limit_s, max_tokens=256, max_sequences=4)
    granted = 0
    for start, missing, urgent in chunks:
        count = budget.fit(start, start + missing, urgent)
        assert 0 <= count <= min(missing, 256 - granted)
        assert budget.fits_decode(start, urgent) in (True, False)
        if count and not budget.is_spent:
            budget.take(start, count)
            granted += count
            budget.narrow(narrow_s, least_s)


@st.composite
def some_request(draw: st.DrawFn, rid: int = 0) -> Request:
    klass = draw(st.sampled_from(Klass))
    slo = Slo(draw(objectives_s), draw(objectives_s)) if draw(st.booleans()) else None
    prompt = pack_ids([7] * draw(st.integers(1, 20)))
    rid, arrived_s = draw(st.integers(0, 1000)), draw(clocks_s)
    request = Request.of(Admit(rid, klass, arrived_s, prompt, 40, Sampling(), slo=slo))
    if draw(st.booleans()):
        request.row = rid
        request.first_s, request.last_s = draw(clocks_s), draw(clocks_s)
        for _ in range(draw(st.integers(1, 20))):
            request.append(7, 1000)
    return request


@given(
    policy=st.sampled_from(sorted(POLICIES)),
    each=coefficients,
    requests=st.lists(some_request(), max_size=12),
    clock_s=st.lists(clocks_s, min_size=1, max_size=4),
)
def test_policies_have_an_agenda_at_any_time(
    policy: PolicyName, each: tuple[float, ...], requests: list[Request], clock_s: list[float]
) -> None:
    cost, asked = CostModel(each), POLICIES[policy]()
    running = [request for request in requests if request.row is not None]
    waiting = {
        klass: [r for r in requests if r.row is None and r.klass is klass] for klass in Klass
    }
    for now_s in clock_s:
        agenda = asked.agenda(running, waiting, now_s, cost)
        planned = list(agenda.requests)
        assert {*running} <= {*planned} <= {*requests}
        assert not math.isnan(agenda.limit_s)
        assert not math.isnan(agenda.be_limit_s)
        for request in planned:
            assert request not in asked.victims(request, running)


@given(coefficients, st.lists(some_request(), min_size=1, max_size=6))
def test_placement_knows_a_place_for_any_request(
    each: tuple[float, ...], requests: list[Request]
) -> None:
    places = [WorkerLoad(Scheduler(POLICIES["bros"](), Limits(4, 64, 100))) for _ in range(3)]
    placement = Placement(places)
    for place in places[:2]:
        place.scheduler.cost = CostModel(each)
    for request in requests:
        best = placement.candidates(request)
        assert len(best) == 3
        placement.book(best[0], request)
    placement.finish([request.rid for request in requests])
    assert all(0 <= load_s < math.inf for place in places for load_s in place.load_s.values())
