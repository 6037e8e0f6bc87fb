"""A policy or a cost model that fails costs an iteration its order, and nobody a token."""

import logging
import random
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bros.brosd.config import KvMode, PolicyName
from bros.brosd.scheduling.cost_model import CostModel
from bros.brosd.scheduling.limits import Limits
from bros.brosd.scheduling.policies import Agenda, Policy
from bros.brosd.scheduling.queues import Waiting
from bros.brosd.scheduling.registry import POLICIES
from bros.brosd.scheduling.request import Request
from bros.kv import Klass
from scheduler_bench import Bench, Story, events, requests


class Chance:
    """Raises an exception in a given share of calls."""

    def __init__(self, seed: int, share: float) -> None:
        self._rng = random.Random(seed)
        self._share = share
        self.num_raised = 0

    def take(self) -> None:
        if self._rng.random() < self._share:
            self.num_raised += 1
            raise ArithmeticError("as the test wants it")


class FlakyPolicy:
    """Another policy that fails when it is asked, or in the middle of its agenda."""

    def __init__(self, policy: Policy, chance: Chance) -> None:
        self.class_blind = policy.class_blind
        self._policy = policy
        self._chance = chance

    def agenda(
        self, running: Sequence[Request], waiting: Waiting, now_s: float, cost: CostModel
    ) -> Agenda:
        self._chance.take()
        agenda = self._policy.agenda(running, waiting, now_s, cost)
        return replace(agenda, urgent=FlakyUrgent(agenda, self._chance))

    def victims(self, request: Request, running: Sequence[Request]) -> list[Request]:
        self._chance.take()
        return self._policy.victims(request, running)


class FlakyUrgent:
    """Asked for each request, so that it fails when a part of the plan is made."""

    def __init__(self, agenda: Agenda, chance: Chance) -> None:
        self._urgent = agenda.urgent
        self._chance = chance

    def __contains__(self, request: object) -> bool:
        self._chance.take()
        return request in self._urgent


class FlakyCost(CostModel):
    """A cost model of which every public method may fail."""

    def __init__(self, chance: Chance) -> None:
        super().__init__()
        self._chance = chance

    def __getattribute__(self, name: str) -> Any:
        if name in ("base_s", "chunk_s", "count_within", "observe"):
            self._chance.take()
        return super().__getattribute__(name)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    bench.scheduler.policy = FlakyPolicy(POLICIES["bros"](), Chance(0, share=1.0))
    yield bench
    bench.check()


@given(
    policy=st.sampled_from(sorted(POLICIES)),
    mode=st.sampled_from(get_args(KvMode)),
    seed=st.integers(0, 2**32),
    share=st.sampled_from([0.02, 0.2, 1.0]),
    flaky=st.sampled_from(["policy", "cost"]),
    requests=requests,
    events=events,
)
@settings(max_examples=200, deadline=None)
def test_every_request_gets_all_its_tokens(
    policy: PolicyName,
    mode: KvMode,
    seed: int,
    share: float,
    flaky: str,
    requests: list[tuple[Klass, int, int]],
    events: list[tuple[str, int]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), policy, Limits(4, 16, 50, max_losses=1000), mode)
        chance = Chance(seed, share)
        if flaky == "policy":
            bench.scheduler.policy = FlakyPolicy(POLICIES[policy](), chance)
        else:
            bench.scheduler.cost = FlakyCost(chance)
        story = Story(bench, requests)
        for event, pick in events:
            story.happen(event, pick)
        story.finish()
        story.check()
        assert bench.scheduler.planning_faults == chance.num_raised


def test_without_a_policy_decodes_come_first_and_real_time_keeps_its_kv(bench: Bench) -> None:
    bench.admit(1, Klass.RT, prompt=4, max_tokens=8)
    bench.step()
    bench.admit(2, Klass.BE, prompt=16, max_tokens=4)
    bench.admit(3, Klass.RT, prompt=16, max_tokens=4)
    while bench.step():
        pass
    assert bench.output == {
        1: list(range(4, 12)),
        2: list(range(16, 20)),
        3: list(range(16, 20)),
    }
    assert bench.scheduler.stats(Klass.RT).preemptions == 0


def test_faults_are_counted_and_do_not_fill_the_log(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.admit(1, Klass.RT, prompt=4, max_tokens=20)
    with caplog.at_level(logging.ERROR):
        while bench.step():
            pass
    assert bench.output[1] == list(range(4, 24))
    assert bench.scheduler.planning_faults >= 20
    assert [record.args for record in caplog.records] == [
        ("planning an iteration", 2**power) for power in range(5)
    ]
    assert "as the test wants it" in caplog.text
