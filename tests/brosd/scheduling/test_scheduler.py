"""The scheduler against a model worker: whatever happens, every request gets all its tokens."""

import tempfile
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bros.brosd.config import KvMode, PolicyName
from bros.brosd.protocol.sockets import encode
from bros.brosd.protocol.wire import (
    MAX_MESSAGE_BYTES,
    Admit,
    Failed,
    FinishReason,
    Sampling,
    pack_ids,
)
from bros.brosd.scheduling.limits import Limits
from bros.brosd.scheduling.registry import POLICIES
from bros.kv import Klass
from scheduler_bench import Bench, Story, events, requests


@given(
    policy=st.sampled_from(sorted(POLICIES)),
    mode=st.sampled_from(get_args(KvMode)),
    requests=requests,
    events=events,
)
@settings(max_examples=600, deadline=None)
def test_every_request_gets_all_its_tokens(
    policy: PolicyName,
    mode: KvMode,
    requests: list[tuple[Klass, int, int]],
    events: list[tuple[str, int]],
) -> None:
    """Whatever happens, and each reads its own KV in every iteration."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), policy, Limits(4, 16, 50, max_losses=1000), mode)
        story = Story(bench, requests)
        for event, pick in events:
            story.happen(event, pick)
        story.finish()
        story.check()


def test_every_policy_that_the_configuration_allows_has_its_class() -> None:
    assert set(get_args(PolicyName)) == POLICIES.keys()


def test_real_time_goes_before_best_effort(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.admit(1, Klass.BE, prompt=16, max_tokens=4)
    bench.admit(2, Klass.RT, prompt=14, max_tokens=4)
    bench.step()
    assert bench.output == {1: [], 2: [14]}  # one token beside RT's 14 and BE's first two


def test_first_come_first_served_is_blind_to_classes(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "fcfs")
    bench.admit(1, Klass.BE, prompt=16, max_tokens=4)
    bench.admit(2, Klass.RT, prompt=14, max_tokens=4)
    bench.step()
    assert bench.output == {1: [16], 2: []}


def test_real_time_takes_tail_blocks_of_best_effort(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.admit(1, Klass.BE, prompt=20, max_tokens=8)
    bench.step()
    bench.step()
    bench.admit(2, Klass.RT, prompt=16, max_tokens=2)
    bench.step()
    assert bench.output[2] == [16]  # at once, though BE held five of eight blocks
    assert bench.scheduler.stats(Klass.BE).preempted_tokens > 0
    assert bench.scheduler.stats(Klass.BE).preemptions == 1
    while bench.step():
        pass
    assert bench.output[1] == list(range(20, 28))


def test_a_prompt_is_admitted_whole_or_waits(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.admit(1, Klass.RT, prompt=24, max_tokens=4)
    bench.admit(2, Klass.RT, prompt=12, max_tokens=4)
    bench.step()  # 16 of 24 tokens: blocks for the other eight are promised
    assert bench.scheduler.stats(Klass.RT).waiting == 1


def test_stop_ids_end_a_request(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    admit = Admit(
        rid=1,
        klass=Klass.RT,
        arrived_s=0.0,
        prompt=pack_ids([7, 7]),
        max_tokens=9,
        sampling=Sampling(),
        stop_ids=[3],
    )
    bench.scheduler.admit(admit)
    bench.output[1] = []
    while bench.step():
        pass
    assert bench.output[1] == [2, 3]
    assert bench.finish[1] is FinishReason.STOP


def test_a_request_that_keeps_killing_workers_is_given_up(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.admit(1, Klass.RT, prompt=4, max_tokens=4)
    for _ in range(2):
        bench.send()
        assert bench.scheduler.detach() == []
        bench.attach()
    bench.send()
    (fail,) = bench.scheduler.detach()
    assert (fail.rid, fail.status, fail.code) == (1, 500, "worker_lost")
    assert bench.scheduler.idle


def test_real_time_beyond_the_queue_is_refused_and_best_effort_is_not(tmp_path: Path) -> None:
    bench = Bench(tmp_path, limits=Limits(4, 16, max_waiting=2))
    for rid in range(2):
        bench.admit(rid, Klass.RT, prompt=4, max_tokens=4)
    for rid in range(10, 20):
        bench.admit(rid, Klass.BE, prompt=4, max_tokens=4)
    admit = Admit(
        rid=3,
        klass=Klass.RT,
        arrived_s=3.0,
        prompt=pack_ids([1]),
        max_tokens=1,
        sampling=Sampling(),
    )
    fail = bench.scheduler.admit(admit)
    assert fail is not None
    assert fail.status == 429


def test_an_answer_to_no_question_is_an_error(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    with pytest.raises(ValueError, match="not in flight"):
        bench.scheduler.complete(1, [])


def test_a_row_that_fails_ends_its_own_request_only(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    for rid in (1, 2):
        bench.admit(rid, Klass.RT, prompt=4, max_tokens=2)
    bench.send()
    assert bench.in_flight is not None
    step = bench.in_flight.step
    assert bench.scheduler.give_up(step - 1, [Failed(1, "of another iteration")]) == []
    (fail,) = bench.scheduler.give_up(step, [Failed(0, "too complex")])
    assert (fail.rid, fail.status, fail.message) == (1, 400, "too complex")
    bench.finish_step()
    assert bench.output == {1: [], 2: [4]}
    assert [request.rid for request in bench.scheduler.running] == [2]
    bench.step()
    assert bench.finish[2] is FinishReason.LENGTH
    assert bench.scheduler.idle


def test_a_plan_stays_within_what_a_message_may_have(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    grammar = "x" * (MAX_MESSAGE_BYTES // 5)
    for rid in range(4):
        admit = Admit(rid, Klass.RT, 0.0, pack_ids([1]), 2, Sampling(grammar=grammar))
        bench.scheduler.admit(admit)
        bench.output[rid] = []
    for rids in ([0, 1], [0, 1, 2, 3], [2, 3]):
        assert bench.send()
        assert bench.in_flight is not None
        assert len(encode(bench.in_flight)) <= MAX_MESSAGE_BYTES
        assert bench.in_flight.num_copies == 0
        before = {rid: len(output) for rid, output in bench.output.items()}
        bench.finish_step()
        assert [rid for rid in range(4) if len(bench.output[rid]) > before[rid]] == rids
    assert bench.scheduler.idle
