"""Requests of both classes read what another request with the same prefix has computed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from harness import PLAIN, MakeServer, Server
from traffic import complete, prompts, wait_for_stats

BLOCK = 16
NUM_LINES, INSTRUCTION = 64, 500
POOL, SYSTEM = 64, 200


@pytest.mark.server(*PLAIN)
def test_an_instruction_is_computed_once(server: Server) -> None:
    before = wait_for_stats(server)
    (instruction,) = prompts(1, 1, INSTRUCTION)
    lines = [instruction + question for question in prompts(2, NUM_LINES, 12)]
    with ThreadPoolExecutor(NUM_LINES) as pool:
        list(pool.map(lambda line: complete(server, line, 2, "flex"), lines))
    after = wait_for_stats(server)
    asked, hit = (
        after[name, "be"] - before[name, "be"]
        for name in ("bros_prefix_asked_tokens_total", "bros_prefix_hit_tokens_total")
    )
    assert asked == sum(len(line) for line in lines)
    assert hit == (NUM_LINES - 1) * (INSTRUCTION // BLOCK * BLOCK)


@pytest.mark.slow
def test_best_effort_never_pushes_out_a_system_prompt(make_server: MakeServer) -> None:
    server = make_server(f"kv.num_blocks={POOL}", "model.max_len=512")
    (system,) = prompts(3, 1, SYSTEM)
    complete(server, system, 2, "default")
    churn = prompts(4, 10 * POOL * BLOCK // 320, 320)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda prompt: complete(server, prompt, 2, "flex"), churn))
    complete(server, [*system, 7], 2, "default")
    found = wait_for_stats(server)
    assert found["bros_kv_evicted_blocks_total", ""] > 8 * POOL
    assert found["bros_prefix_hit_tokens_total", "rt"] == SYSTEM // BLOCK * BLOCK
    assert server.stop().returncode == 0
