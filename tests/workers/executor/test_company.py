"""In bfloat16, a row's numbers are the same to the bit, alone and in any company and chunks."""

from __future__ import annotations

import random
from pathlib import Path

from bros.brosd.config import load
from bros.brosd.protocol.wire import Sampling
from bros.kv import Klass
from bros.workers.factory import cpu_executor
from rows import RowRunner

NUM_TOKENS = 12
LENGTHS = [1, 3, 16, 17, 40, 90, 700]


def test_company_changes_no_bit(model_dir: Path, tmp_path: Path) -> None:
    config = load(overrides=["kv.num_blocks=128"], environ={})
    executor = cpu_executor(model_dir, config)
    rng = random.Random(7)
    prompts = [[rng.randrange(100, 49000) for _ in range(length)] for length in LENGTHS]
    sampling = Sampling(temperature=0.0, logprobs=0)

    alone = []
    for index, prompt in enumerate(prompts):
        runner = RowRunner(executor, config, tmp_path / f"alone-{index}")
        row = runner.open(Klass(index % 2), prompt, sampling)
        for _ in range(NUM_TOKENS):
            runner.step([(row, 1000)])
        alone.append((runner.tokens[row], runner.logprobs[row]))

    runner = RowRunner(executor, config, tmp_path / "together")
    rows = [runner.open(Klass(i % 2), prompt, sampling) for i, prompt in enumerate(prompts)]
    while left := [r for r in rows if len(runner.logprobs.get(r, ())) < NUM_TOKENS]:
        some = rng.sample(left, rng.randint(1, len(left)))
        runner.step([(row, rng.randint(1, min(61, runner.pending(row)))) for row in some])
    assert [(runner.tokens[row], runner.logprobs[row]) for row in rows] == alone
