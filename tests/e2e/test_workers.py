"""One of several workers, or of the processes of one worker, dies; no token changes."""

from __future__ import annotations

import json
import os
import random
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from harness import MakeServer, Server, wait_until
from traffic import complete

pytestmark = pytest.mark.slow

MAX_TOKENS = 48
PRIORITY = "scheduler.policy=priority"  # which runs all at once, however slow the machine is
LENGTHS = [1, 5, 16, 17, 33, 60, 90, 130]


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    rng = random.Random(2504)
    return [[rng.randrange(100, 49000) for _ in range(length)] for length in LENGTHS]


@pytest.fixture(scope="module")
def expected(prompts: list[list[int]], model_dir: Path) -> list[list[int]]:
    """Return what transformers generates for each prompt alone."""
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
    outputs = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        output = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            min_new_tokens=MAX_TOKENS,
            max_new_tokens=MAX_TOKENS,
            pad_token_id=0,
        )
        outputs.append(output[0, len(prompt) :].tolist())
    return outputs


def workers(server: Server) -> list[dict[str, Any]]:
    """Return what `brosd status` tells of each worker."""
    stats = json.loads(server.run("brosd", "status", "--json").stdout)
    found: list[dict[str, Any]] = stats["workers"]
    return found


def ask_all(
    server: Server, prompts: list[list[int]], max_tokens: int, pool: ThreadPoolExecutor
) -> Any:
    """Send each prompt once in each class, all at once; return an iterator of the outputs."""
    servers, lengths = [server] * 2 * len(prompts), [max_tokens] * 2 * len(prompts)
    tiers = ["default"] * len(prompts) + ["flex"] * len(prompts)
    return pool.map(complete, servers, prompts * 2, lengths, tiers)


def kill_one_while_all_run(
    server: Server, prompts: list[list[int]], expected: list[list[int]], victim: int
) -> None:
    """Check that no token changes, and that all workers end up ready with nothing left to do."""
    max_tokens = len(expected[0])
    with ThreadPoolExecutor(2 * len(prompts)) as pool:
        outputs = ask_all(server, prompts, max_tokens, pool)
        wait_until(lambda: all(sum(worker["running"]) >= 3 for worker in workers(server)))
        os.kill(victim, signal.SIGKILL)
        assert list(outputs) == expected * 2
    wait_until(lambda: all(worker["ready"] for worker in workers(server)))
    assert sum(worker["restarts"] for worker in workers(server)) == 1
    assert all(worker["running"] == worker["waiting"] == [0, 0] for worker in workers(server))
    assert server.stop().returncode == 0


def test_two_workers_and_one_is_killed(
    prompts: list[list[int]], expected: list[list[int]], make_server: MakeServer
) -> None:
    """Both have requests; the requests of the killed worker go on at the other."""
    server = make_server("model.dtype=float32", "worker.count=2", PRIORITY)
    kill_one_while_all_run(server, prompts, expected, server.child("bros.workers"))


def test_two_processes_share_the_model_and_one_is_killed(
    prompts: list[list[int]], expected: list[list[int]], make_server: MakeServer
) -> None:
    """The default model has three KV heads: one process has two of them. No orphan is left."""
    server = make_server(
        "model.dtype=float32", "worker.tensor_parallel=2", "kv.num_blocks=60", PRIORITY
    )
    leader = server.child("bros.workers")
    (follower,) = children(leader)
    kill_one_while_all_run(server, prompts, expected, follower)
    wait_until(lambda: not Path(f"/proc/{leader}").exists())


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
