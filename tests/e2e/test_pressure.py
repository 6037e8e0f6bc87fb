"""With a tenth of the KV blocks in demand, RT does not wait for BE's memory; no text changes."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness import FLOAT32, MakeServer, Server
from traffic import complete, prompts, wait_for_stats

pytestmark = pytest.mark.slow

NUM_BE, BE_TOKENS, BE_OUTPUT = 64, 72, 16
NUM_RT, RT_TOKENS, RT_OUTPUT = 20, 60, 16
RT_PER_S = 1.0
MAX_RT = 5  # at a time: RT alone must not fill a tenth of the pool, however slow the machine is
BLOCK = 16
DEMAND = NUM_BE * -(-(BE_TOKENS + BE_OUTPUT) // BLOCK)


def best_effort(server: Server, pool: ThreadPoolExecutor, count: int = NUM_BE) -> list[list[int]]:
    """Send the first `count` BE requests all at once, and return their outputs."""
    be = prompts(1, NUM_BE, BE_TOKENS)[:count]
    return list(pool.map(lambda prompt: complete(server, prompt, BE_OUTPUT, "flex"), be))


def real_time(server: Server, count: int = NUM_RT, per_s: float = RT_PER_S) -> list[list[int]]:
    """Send the first `count` RT requests as a Poisson process, and return their outputs."""
    rng = random.Random(2)
    futures = []
    with ThreadPoolExecutor(MAX_RT) as pool:
        for prompt in prompts(3, NUM_RT, RT_TOKENS)[:count]:
            time.sleep(rng.expovariate(per_s))
            futures.append(pool.submit(complete, server, prompt, RT_OUTPUT, "default"))
    return [future.result() for future in futures]


@pytest.fixture(scope="module")
def uncontended(make_server: MakeServer) -> tuple[list[list[int]], list[list[int]]]:
    """Return outputs of both classes, one after the other, from a pool that holds everything."""
    server = make_server(*FLOAT32, "kv.prefix_cache=false")
    with ThreadPoolExecutor(NUM_BE) as pool:
        outputs = best_effort(server, pool), real_time(server, per_s=20.0)
    found = wait_for_stats(server)
    assert found["bros_kv_copy_bytes_total", ""] == 0  # no checkpoint without memory pressure
    assert found["bros_kv_preempted_blocks_total", ""] == 0
    assert server.stop().returncode == 0
    return outputs


@pytest.mark.parametrize(
    ("mode", "num_be", "num_rt"),
    [("bidirectional", NUM_BE, NUM_RT), ("recompute", 24, 8), ("swap", 24, 8)],
)
def test_a_tenth_of_the_memory(
    mode: str,
    num_be: int,
    num_rt: int,
    uncontended: tuple[list[list[int]], list[list[int]]],
    make_server: MakeServer,
) -> None:
    server = make_server(*FLOAT32, f"kv.num_blocks={DEMAND // 10}", f"kv.mode={mode}")
    with ThreadPoolExecutor(NUM_BE + 1) as pool:
        be = pool.submit(best_effort, server, pool, num_be)
        rt = real_time(server, num_rt)
        assert (be.result(), rt) == (uncontended[0][:num_be], uncontended[1][:num_rt])
    found = wait_for_stats(server)
    assert 0 < found["bros_preemptions_total", "be"] <= found["bros_preempted_tokens_total", "be"]
    assert found["bros_preempted_tokens_total", "rt"] == 0
    if mode == "bidirectional":
        assert found["bros_memory_wait_seconds_total", "rt"] == 0
    assert server.stop().returncode == 0
