"""A KV pool of a tenth of the demand: RT does not wait for BE's memory, and no text changes."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from harness import MODEL, MakeServer, Server, wait_until

NUM_BE, BE_TOKENS, BE_OUTPUT = 64, 120, 32
NUM_RT, RT_TOKENS, RT_OUTPUT, RT_PER_S = 20, 60, 16, 1.5
BLOCK = 16
DEMAND = NUM_BE * -(-(BE_TOKENS + BE_OUTPUT) // BLOCK)


def prompts(seed: int, count: int, length: int) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(100, 49000) for _ in range(length)] for _ in range(count)]


def complete(server: Server, prompt: list[int], max_tokens: int, tier: str) -> list[int]:
    body = {
        "model": MODEL,
        "prompt": prompt,
        "max_tokens": max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "service_tier": tier,
        "return_token_ids": True,
    }
    response = httpx.post(f"{server.url}/v1/completions", json=body, timeout=500.0)
    assert response.status_code == 200, response.text
    token_ids: list[int] = response.json()["choices"][0]["token_ids"]
    return token_ids


def best_effort(server: Server, pool: ThreadPoolExecutor) -> list[list[int]]:
    """All BE requests at once; waits for them."""
    be = prompts(1, NUM_BE, BE_TOKENS)
    return list(pool.map(lambda prompt: complete(server, prompt, BE_OUTPUT, "flex"), be))


def real_time(server: Server, pool: ThreadPoolExecutor) -> list[list[int]]:
    """RT requests as a Poisson process; waits for them."""
    rng = random.Random(2)
    futures = []
    for prompt in prompts(3, NUM_RT, RT_TOKENS):
        time.sleep(rng.expovariate(RT_PER_S))
        futures.append(pool.submit(complete, server, prompt, RT_OUTPUT, "default"))
    return [future.result() for future in futures]


def metrics(server: Server) -> dict[tuple[str, str], float]:
    """Samples of `/metrics` by name and class."""
    text = httpx.get(f"{server.url}/metrics").text
    return {
        (sample.name, sample.labels.get("class", "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def nothing_is_held(found: dict[tuple[str, str], float]) -> bool:
    held = found["bros_kv_blocks_total", ""] - found["bros_kv_blocks_free", ""]
    return held == found["bros_kv_host_blocks_used", ""] == 0


@pytest.fixture(scope="module")
def uncontended(make_server: MakeServer) -> tuple[list[list[int]], list[list[int]]]:
    """Outputs of both classes with a pool that holds everything, one class after the other."""
    server = make_server("model.dtype=float32", "kv.prefix_cache=false")
    with ThreadPoolExecutor(NUM_BE) as pool:
        outputs = best_effort(server, pool), real_time(server, pool)
    wait_until(lambda: nothing_is_held(metrics(server)), timeout_s=10.0)
    found = metrics(server)
    assert found["bros_kv_copy_bytes_total", ""] == 0  # no checkpoint without memory pressure
    assert found["bros_kv_preempted_blocks_total", ""] == 0
    assert server.stop().returncode == 0
    return outputs


@pytest.mark.parametrize("mode", ["bidirectional", "recompute", "swap"])
def test_a_tenth_of_the_memory(
    mode: str, uncontended: tuple[list[list[int]], list[list[int]]], make_server: MakeServer
) -> None:
    server = make_server("model.dtype=float32", f"kv.num_blocks={DEMAND // 10}", f"kv.mode={mode}")
    with ThreadPoolExecutor(NUM_BE + NUM_RT + 1) as pool:
        be = pool.submit(best_effort, server, pool)
        rt = real_time(server, pool)
        assert (be.result(), rt) == uncontended
    wait_until(lambda: nothing_is_held(metrics(server)), timeout_s=10.0)
    found = metrics(server)
    assert found["bros_preempted_tokens_total", "be"] > 0
    assert found["bros_preempted_tokens_total", "rt"] == 0
    if mode == "bidirectional":
        assert found["bros_memory_wait_seconds_total", "rt"] == 0
    assert server.stop().returncode == 0
