"""What the `bros` policy puts on an iteration's agenda, and for how long."""

import itertools
from collections.abc import Sequence

import pytest

from bros.brosd.protocol.wire import Sampling, Slo
from bros.brosd.scheduling.cost_model import CostModel, IterationLoad
from bros.brosd.scheduling.policies import Agenda
from bros.brosd.scheduling.ranking import AIM, FLOOR
from bros.brosd.scheduling.request import Request
from bros.brosd.scheduling.slo_policy import PACE, RESERVE, SloPolicy
from bros.kv import Klass

TTFT_S, TPOT_S = 0.5, 0.08
BASE_S, TOKEN_S = 0.01, 0.001
NOW_S = 100.0
numbers = itertools.count()


@pytest.fixture(scope="module")
def cost() -> CostModel:
    """A worker of which every iteration takes BASE_S and TOKEN_S per token."""
    cost = CostModel()
    for tokens in range(1, 400):
        decodes, prefill = (
            IterationLoad(decode_tokens=tokens % 64),
            IterationLoad(prefill_tokens=tokens),
        )
        cost.observe(decodes, BASE_S + TOKEN_S * decodes.decode_tokens)
        cost.observe(prefill, BASE_S + TOKEN_S * tokens)
    return cost


def prompt(waited_s: float = 0.0, tokens: int = 100, klass: Klass = Klass.RT) -> Request:
    """A request that waits for its first token."""
    return Request(
        rid=next(numbers),
        klass=klass,
        arrived_s=NOW_S - waited_s,
        tokens=[0] * tokens,
        num_prompt=tokens,
        max_tokens=100,
        sampling=Sampling(),
        stop_ids=frozenset(),
        slo=Slo(TTFT_S, TPOT_S) if klass is Klass.RT else None,
    )


def stream(outputs: int, ahead_s: float = 0.0, ttft_s: float = 0.1) -> Request:
    """A request that decodes; its next token is due in `ahead_s`, if it aims at AIM of its TPOT."""
    first_s = NOW_S + ahead_s - AIM * outputs * TPOT_S
    request = prompt(waited_s=NOW_S - first_s + ttft_s)
    request.tokens += [0] * outputs
    request.first_s = first_s
    request.row = request.rid
    request.num_computed = len(request.tokens) - 1
    return request


def agenda(
    cost: CostModel,
    running: Sequence[Request] = (),
    rt: Sequence[Request] = (),
    be: Sequence[Request] = (),
) -> Agenda:
    return SloPolicy().agenda([*running], {Klass.RT: rt, Klass.BE: be}, NOW_S, cost)


def test_streams_come_before_prompts_and_real_time_before_best_effort(cost: CostModel) -> None:
    new, running = prompt(), stream(5, ahead_s=0.1)
    old_be, new_be = prompt(klass=Klass.BE), prompt(klass=Klass.BE)
    order = list(agenda(cost, [old_be, running], [new], [new_be]).requests)
    assert order == [running, new, old_be, new_be]


def test_the_least_slack_is_the_limit(cost: CostModel) -> None:
    streams = [stream(9, ahead_s=0.12), stream(9, ahead_s=0.2)]
    assert agenda(cost, streams).limit_s == pytest.approx(0.12 - cost.margin_s)


def test_a_late_stream_does_not_collapse_the_iteration(cost: CostModel) -> None:
    limit_s = agenda(cost, [stream(9, ahead_s=-0.05)]).limit_s
    assert limit_s == pytest.approx(FLOOR * TPOT_S - cost.margin_s)


def test_a_stream_that_was_late_from_the_start_leaves_the_minimum(cost: CostModel) -> None:
    lost = stream(9, ahead_s=-0.05, ttft_s=2 * TTFT_S)
    plan = agenda(cost, [lost, stream(9, ahead_s=0.15)])
    assert plan.limit_s == pytest.approx(0.15 - cost.margin_s)
    assert next(iter(plan.requests)) is not lost


def test_best_effort_work_leaves_streams_their_reserve(cost: CostModel) -> None:
    ahead_s = (RESERVE + 1.2) * TPOT_S
    assert agenda(cost, [stream(30, ahead_s)]).be_limit_s == pytest.approx(1.2 * TPOT_S)
    assert agenda(cost, [stream(30, 1.1 * TPOT_S)]).be_limit_s == pytest.approx(PACE * TPOT_S)


def test_without_streams_the_limit_is_what_the_next_prompt_can_bear(cost: CostModel) -> None:
    policy = SloPolicy()
    for _ in range(200):  # prompts of 100 tokens are what comes
        policy.agenda([], {Klass.RT: [prompt()], Klass.BE: []}, NOW_S, cost)
    limit_s = policy.agenda([], {Klass.RT: [], Klass.BE: []}, NOW_S, cost).be_limit_s
    assert limit_s == pytest.approx(AIM * TTFT_S - BASE_S - 100 * TOKEN_S, abs=0.02)


def test_a_prompt_that_can_be_in_time_overtakes_one_that_cannot(cost: CostModel) -> None:
    late, fresh = prompt(waited_s=0.6), prompt(waited_s=0.1)
    assert list(agenda(cost, rt=[late, fresh]).requests) == [fresh, late]


def test_of_too_many_prompts_as_many_as_can_be_are_in_time(cost: CostModel) -> None:
    """Three of 180 tokens do not fit into the half second that each has."""
    crowd = [prompt(waited_s=0.01 * i, tokens=180) for i in range(3)]
    assert list(agenda(cost, rt=crowd).requests) == [crowd[2], crowd[1], crowd[0]]
    assert agenda(cost, rt=crowd).urgent == {crowd[2]}


def test_a_request_in_time_may_take_the_kv_of_a_late_one(cost: CostModel) -> None:
    policy = SloPolicy()
    late, in_time = stream(9, ttft_s=2 * TTFT_S), stream(9, ahead_s=0.1)
    be = prompt(klass=Klass.BE)
    running = [late, in_time, be]
    policy.agenda(running, {Klass.RT: [], Klass.BE: []}, NOW_S, cost)
    assert policy.victims(in_time, running) == [be, late]
    assert policy.victims(late, running) == [be, in_time]
    assert policy.victims(be, running) == []


def test_newcomers_wait_when_those_that_stream_need_all_the_time(cost: CostModel) -> None:
    streams = [stream(9, ahead_s=0.08) for _ in range(60)]
    newcomer = prompt()
    assert newcomer not in list(agenda(cost, streams, [newcomer]).requests)
    assert newcomer in list(agenda(cost, streams[:20], [newcomer]).requests)
