"""The executor's greedy tokens equal those of transformers alone, in float32."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from bros.brosd.config import Config, load
from bros.brosd.wire import Sampling
from bros.kv import Klass
from bros.workers.executor import Executor
from rows import RowRunner

NUM_TOKENS = 16
LENGTHS = [1, 5, 16, 17, 40, 90]


@pytest.fixture(scope="module", params=["numba", "torch"])
def config(request: pytest.FixtureRequest) -> Config:
    settings = ["model.dtype=float32", "kv.num_blocks=64", f"worker.attention={request.param}"]
    return load(overrides=settings, environ={})


@pytest.fixture(scope="module")
def executor(config: Config, model_dir: Path) -> Executor:
    return Executor(model_dir, config)


@pytest.fixture
def runner(executor: Executor, config: Config, tmp_path: Path) -> Iterator[RowRunner]:
    runner = RowRunner(executor, config, tmp_path / "table")
    yield runner
    runner.allocator.check()


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


def test_dropped_tokens_are_computed_again(
    runner: RowRunner, prompts: list[list[int]], expected: list[list[int]]
) -> None:
    victim = runner.open(Klass.BE, prompts[5])
    runner.step([(victim, runner.pending(victim))])
    for drop in (1, 3, 6, 2):
        runner.step([(victim, runner.pending(victim))])
        runner.allocator.drop_tail(victim, drop)
        intruder = runner.open(Klass.RT, prompts[3])  # overwrites what was dropped
        runner.step([(intruder, runner.pending(intruder))])
        assert runner.tokens[intruder] == expected[3][: len(prompts[3]) + 1]
        runner.allocator.close_row(intruder)
    while len(runner.tokens[victim]) < len(expected[5]):
        runner.step([(victim, runner.pending(victim))])
    assert runner.tokens[victim] == expected[5]


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
