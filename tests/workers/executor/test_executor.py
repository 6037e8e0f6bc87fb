"""The executor's greedy tokens equal those of transformers alone, in float32."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from numba.core.event import install_recorder
from transformers import AutoModelForCausalLM

from bros.brosd.config import Config, load
from bros.brosd.protocol.wire import Sampling
from bros.kv import Klass
from bros.kv.invariants import check
from bros.workers.executor.executor import Executor
from bros.workers.factory import cpu_executor
from rows import RowRunner

NUM_TOKENS = 16
LENGTHS = [1, 5, 16, 17, 40, 90]


@pytest.fixture(scope="module", params=["numba", "torch"])
def config(request: pytest.FixtureRequest) -> Config:
    settings = ["model.dtype=float32", "kv.num_blocks=64", f"worker.attention={request.param}"]
    return load(overrides=settings, environ={})


@pytest.fixture(scope="module")
def executor(config: Config, model_dir: Path) -> Executor:
    return cpu_executor(model_dir, config)


@pytest.fixture
def runner(executor: Executor, config: Config, tmp_path: Path) -> Iterator[RowRunner]:
    runner = RowRunner(executor, config, tmp_path / "table")
    yield runner
    check(runner.allocator)


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    rng = random.Random(7)
    return [[rng.randrange(100, 49000) for _ in range(length)] for length in LENGTHS]


@pytest.fixture(scope="module")
def expected(prompts: list[list[int]], model_dir: Path) -> list[list[int]]:
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
    outputs = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        mask = torch.ones_like(ids)
        output = model.generate(
            ids, attention_mask=mask, do_sample=False, max_new_tokens=NUM_TOKENS, pad_token_id=0
        )
        outputs.append(output[0].tolist())
    return outputs


def test_mixed_rows_in_chunks(
    runner: RowRunner, prompts: list[list[int]], expected: list[list[int]]
) -> None:
    rows = [runner.open(Klass(i % 2), prompt) for i, prompt in enumerate(prompts)]
    rng = random.Random(3)
    while any(len(runner.tokens[r]) < len(e) for r, e in zip(rows, expected, strict=True)):
        unfinished = [
            row
            for row, want in zip(rows, expected, strict=True)
            if len(runner.tokens[row]) < len(want)
        ]
        some = rng.sample(unfinished, rng.randint(1, len(unfinished)))
        runner.step([(row, rng.randint(1, min(23, runner.pending(row)))) for row in some])
    assert [runner.tokens[row] for row in rows] == expected


def finish(runner: RowRunner, row: int, expected: list[int]) -> None:
    while len(runner.tokens[row]) < len(expected):
        runner.step([(row, 64)])
    assert runner.tokens[row] == expected


@pytest.mark.parametrize("pays", [True, False], ids=["saved", "dropped"])
def test_lost_tokens_come_back(
    runner: RowRunner, prompts: list[list[int]], expected: list[list[int]], *, pays: bool
) -> None:
    """Whether they are copied to the host and back or computed again, the text does not change."""
    runner.allocator.costs.compute_s_per_token = 1.0
    runner.allocator.costs.copy_s_per_block = 0.0 if pays else 100.0
    victim = runner.open(Klass.BE, prompts[5])
    finish(runner, victim, expected[5][:95])
    for _ in range(3):
        runner.allocator.give_up(victim)
        intruder = runner.open(Klass.RT, prompts[5][1:])  # overwrites what was lost
        runner.step([(intruder, 200)])
        runner.allocator.close_row(intruder)
        runner.step([(victim, 200)])
    finish(runner, victim, expected[5])
    assert (runner.allocator.counters.restored_blocks > 0) is pays


def test_two_classes_in_one_block(
    runner: RowRunner, prompts: list[list[int]], expected: list[list[int]]
) -> None:
    """If no block is free, a BE tail and an RT tail share one; when RT grows, BE gives way."""
    victim = runner.open(Klass.BE, prompts[5])
    finish(runner, victim, expected[5][:100])
    hoarders: list[int] = []
    while runner.allocator.num_free:
        row = runner.open(Klass.RT, [len(hoarders)] * 16)
        runner.step([(row, 16)])
        hoarders.append(row)
    guest = runner.open(Klass.RT, prompts[1])
    while len(runner.tokens[guest]) < len(expected[1]):
        runner.step([(guest, 64)], victims=[victim])
    assert runner.tokens[guest] == expected[1]
    counters = runner.allocator.counters
    assert counters.shared_blocks > 0
    assert 0 < counters.preempted_tokens[Klass.BE] <= len(expected[1])
    for row in hoarders:
        runner.allocator.close_row(row)
    finish(runner, victim, expected[5])


def test_a_prefix_is_computed_once(
    runner: RowRunner, prompts: list[list[int]], expected: list[list[int]]
) -> None:
    """It is also found by rows that start in the iteration that computes it, in both classes."""
    rows = [runner.open(klass, prompts[5]) for klass in (Klass.BE, Klass.RT, Klass.BE)]
    runner.step([(row, 200) for row in rows])
    assert runner.allocator.counters.prefix_hit_tokens == {Klass.RT: 80, Klass.BE: 80}
    while len(runner.tokens[rows[0]]) < len(expected[5]):
        runner.step([(row, 1) for row in rows])
    assert [runner.tokens[row] for row in rows] == [expected[5]] * 3


def test_a_seed_gives_the_same_text_in_any_company(
    runner: RowRunner, prompts: list[list[int]]
) -> None:
    sampling = Sampling(temperature=0.9, top_p=0.9, seed=11)
    alone = runner.open(Klass.RT, prompts[2], sampling)
    for _ in range(8):
        runner.step([(alone, runner.pending(alone))])
    company = [runner.open(Klass.BE, prompt, Sampling(seed=5)) for prompt in prompts[:3]]
    again = runner.open(Klass.BE, prompts[2], sampling)
    for _ in range(8):
        runner.step([(row, runner.pending(row)) for row in (*company, again)])
    assert runner.tokens[again] == runner.tokens[alone]


def test_nothing_is_compiled_after_the_warm_up(
    executor: Executor, runner: RowRunner, prompts: list[list[int]]
) -> None:
    executor.warm_up()
    drawn = (Klass.RT, Sampling()), (Klass.BE, Sampling(top_p=0.9))
    rows = [runner.open(klass, prompt) for klass, prompt in zip(Klass, prompts[3:5], strict=True)]
    rows += [runner.open(klass, prompts[0], sampling) for klass, sampling in drawn]
    with install_recorder("numba:compile") as compiled:
        runner.step([(row, runner.pending(row)) for row in rows[2:]])
        for counts in ((17, 0), (1, 9), (0, 20), (1, 2), (1, 1), (1, 0), (0, 1), (0, 0, 1, 1)):
            runner.step([(row, count) for row, count in zip(rows, counts, strict=False) if count])
    assert not compiled.buffer
