"""Greedy outputs of the server equal those of transformers alone, token for token, in float32."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import torch
from transformers import AutoModelForCausalLM

from harness import FLOAT32, MODEL, MakeServer

pytestmark = pytest.mark.slow

MAX_TOKENS = 12
LENGTHS = [1, 2, 3, 5, 8, 13, 15, 16, 17, 31, 32, 33, 40, 48, 64, 65, 80, 100, 127, 128]
LENGTHS += [129, 160, 200, 255, 256, 257, 300, 400, 512, 700, 1000, 1500]


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    """Return 32 prompts of 1 to 1,500 token ids, the same in every run."""
    rng = random.Random(2504)
    return [[rng.randrange(100, 49000) for _ in range(length)] for length in LENGTHS]


@pytest.fixture(scope="module")
def expected(prompts: list[list[int]], model_dir: Path) -> list[list[int]]:
    """Return what transformers generates for each prompt alone."""
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
    outputs = []
    with torch.inference_mode():
        for prompt in prompts:
            ids = torch.tensor([prompt])
            output = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=MAX_TOKENS,
                pad_token_id=0,
            )
            outputs.append(output[0, len(prompt) :].tolist())
    return outputs


def complete(url: str, prompt: list[int], tier: str) -> list[int]:
    body = {
        "model": MODEL,
        "prompt": prompt,
        "max_tokens": MAX_TOKENS,
        "temperature": 0,
        "service_tier": tier,
        "return_token_ids": True,
    }
    response = httpx.post(f"{url}/v1/completions", json=body, timeout=300.0)
    assert response.status_code == 200, response.text
    token_ids: list[int] = response.json()["choices"][0]["token_ids"]
    return token_ids


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(["scheduler.max_batch_tokens=96"], id="chunked"),
        pytest.param(
            ["scheduler.max_batch_tokens=96", "kv.num_blocks=110"], id="chunked-and-preempted"
        ),
        pytest.param(
            ["scheduler.policy=fcfs", "kv.num_blocks=110", "kv.block_size=32"], id="fcfs-recompute"
        ),
    ],
)
def test_mixed_requests_equal_transformers(
    settings: list[str],
    prompts: list[list[int]],
    expected: list[list[int]],
    make_server: MakeServer,
) -> None:
    server = make_server(*FLOAT32, *settings)
    tiers = ["default" if index % 2 else "flex" for index in range(len(prompts))]
    with ThreadPoolExecutor(len(prompts)) as pool:
        outputs = list(pool.map(complete, [server.url] * len(prompts), prompts, tiers))
    assert outputs == expected
    assert server.stop().returncode == 0
