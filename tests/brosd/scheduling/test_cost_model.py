"""The cost model learns what iterations take, whatever they are made of, and budgets invert it."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bros.brosd.scheduling import cost_model
from bros.brosd.scheduling.budget import MIN_CHUNK, Budget
from bros.brosd.scheduling.cost_model import CostModel, IterationLoad

TRUTH = (0.011, 4e-4, 5e-4, 2e-6, 1e-7, 2e-4)  # seconds: per iteration, token, token, read, ...


def truth_s(load: IterationLoad) -> float:
    base, decode, prefill, context, work, copy = TRUTH
    return (
        base
        + decode * load.decode_tokens
        + prefill * load.prefill_tokens
        + context * load.context_read
        + work * load.work
        + copy * load.copies
    )


def some_load(rng: random.Random) -> IterationLoad:
    load = IterationLoad(copies=rng.choice([0, 0, rng.randrange(20)]))
    for _ in range(rng.randrange(1, 64)):
        load.add(rng.randrange(2000), 1)
    for _ in range(rng.randrange(3)):
        load.add(rng.randrange(1000), rng.randrange(16, 200))
    return load


def trained(noise: float, rounds: int = 600) -> tuple[CostModel, random.Random]:
    rng, cost = random.Random(1), CostModel()
    for _ in range(rounds):
        load = some_load(rng)
        cost.observe(load, truth_s(load) * rng.lognormvariate(0, noise))
    return cost, rng


def test_it_learns_what_iterations_take() -> None:
    cost, rng = trained(noise=0.0)
    for _ in range(100):
        load = some_load(rng)
        assert cost.predict(load) == pytest.approx(truth_s(load), rel=0.02)


def test_it_follows_a_host_that_others_slow_down() -> None:
    cost, rng = trained(noise=0.0)
    for slowness in (1.6, 1.0):
        for _ in range(30):
            load = some_load(rng)
            cost.observe(load, slowness * truth_s(load))
        load = some_load(rng)
        assert cost.predict(load) == pytest.approx(slowness * truth_s(load), rel=0.1)
        one = IterationLoad()
        one.add(700, 90)
        assert cost.base_s + cost.chunk_s(700, 90) == pytest.approx(cost.predict(one))


def test_a_term_that_nothing_shows_keeps_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams alone, until all evidence of a prompt would have faded to a float's zero."""
    monkeypatch.setattr(cost_model, "FADING", 0.9)
    cost, rng = CostModel(), random.Random(1)
    for _ in range(60):
        load = some_load(rng)
        cost.learn(load, truth_s(load))
    cost.keep()
    for length in range(8000):
        load = IterationLoad()
        load.add(length, 1)
        cost.observe(load, truth_s(load) * rng.lognormvariate(0, 0.1))
    assert 0.9**8000 == 0
    chunk = IterationLoad()
    chunk.add(0, 200)
    assert cost.predict(chunk) == pytest.approx(truth_s(chunk), rel=0.5)
    assert cost.count_within(0, 0.1) == pytest.approx(194, rel=0.5)


def test_the_slowness_does_not_stand_in_for_the_coefficients() -> None:
    """Noise alone must not make it drift: it would carry terms along that nothing shows."""
    cost, rng = CostModel(), random.Random(1)
    for _ in range(3000):
        load = some_load(rng)
        cost.observe(load, truth_s(load) * rng.lognormvariate(0, 0.2))
    assert 0.6 < cost._slowness < 1.7


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.nan, math.inf, -math.inf])
def test_what_is_no_duration_teaches_nothing(seconds: float) -> None:
    cost, _ = trained(noise=0.0, rounds=50)
    load = some_load(random.Random(2))
    before = cost.predict(load), cost.margin_s, cost.relative_errors
    for _ in range(20):
        cost.observe(load, seconds)
        cost.learn(load, seconds)
    assert before == (cost.predict(load), cost.margin_s, cost.relative_errors)


def test_it_reports_its_own_error() -> None:
    mean, p95 = trained(noise=0.1)[0].relative_errors
    assert 0.05 < mean < 0.12
    assert mean < p95 < 0.3


def test_the_margin_is_what_iterations_take_beyond_their_prediction() -> None:
    assert trained(noise=0.0)[0].margin_s < 0.002
    assert trained(noise=0.2)[0].margin_s > 0.01


def test_it_follows_a_machine_that_becomes_slower() -> None:
    cost, rng = trained(noise=0.0)
    for _ in range(1500):
        load = some_load(rng)
        cost.observe(load, 2 * truth_s(load))
    load = some_load(rng)
    assert cost.predict(load) == pytest.approx(2 * truth_s(load), rel=0.05)


def test_no_work_costs_less_than_nothing() -> None:
    """Measured times that fall with the load are noise, not a law."""
    cost = CostModel()
    for tokens in range(1, 200):
        cost.observe(IterationLoad(decode_tokens=tokens), 0.1 - 1e-4 * tokens)
    assert cost.chunk_s(0, 1) >= 0
    assert cost.base_s >= 0


@given(start=st.integers(0, 8000), seconds=st.floats(0.0, 5.0))
def test_a_chunk_that_fits_is_the_longest_that_fits(start: int, seconds: float) -> None:
    cost = COST
    count = cost.count_within(start, seconds)
    assert count == 0 or cost.chunk_s(start, max(2, count)) <= seconds * 1.001 + 1e-6 or count == 1
    assert cost.chunk_s(start, count + 2) > seconds * 0.999


COST = trained(noise=0.0)[0]


def test_a_budget_is_spent_by_what_it_grants() -> None:
    budget = Budget(COST, 0.08, max_tokens=1000, max_sequences=100)
    granted = 0
    while count := budget.fit(0, 40, urgent=False):
        budget.take(0, count)
        granted += count
    assert granted > 40
    assert budget.spent_s <= 0.08
    assert COST.predict(budget.load) == pytest.approx(budget.spent_s, rel=0.01)


def test_a_chunk_too_short_to_be_worth_it_is_not_granted() -> None:
    budget = Budget(COST, COST.base_s + COST.chunk_s(0, MIN_CHUNK - 2), 1000, 100)
    budget.take(0, 1)
    assert budget.fit(0, 500, urgent=False) == 0
    assert budget.fit(0, 500, urgent=True) == MIN_CHUNK
    assert budget.fit(490, 495, urgent=False) == 5, "a prompt's last tokens are always worth it"


def test_an_iteration_is_never_empty_for_lack_of_time() -> None:
    budget = Budget(COST, 0.0, max_tokens=1000, max_sequences=100)
    assert budget.fit(0, 500, urgent=False) == MIN_CHUNK


def test_a_budget_without_a_limit_ends_at_tokens_and_sequences() -> None:
    budget = Budget(COST, math.inf, max_tokens=100, max_sequences=2)
    assert budget.fit(0, 500, urgent=False) == 100
    budget.take(0, 60)
    assert budget.fit(0, 500, urgent=False) == 40
    budget.take(0, 10)
    assert budget.is_spent


def test_what_is_narrowed_leaves_what_is_owed() -> None:
    budget = Budget(COST, math.inf, 1000, 100)
    budget.take(0, 100)
    budget.narrow(budget.spent_s + 0.01, least_s=0.0)
    assert budget.left_s == pytest.approx(0.01)
    budget.narrow(0.0, least_s=0.005)
    assert budget.left_s == pytest.approx(0.005)
