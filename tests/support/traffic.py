"""Requests of both classes to a running server, and its metrics afterwards."""

from __future__ import annotations

import random

import httpx

from bros.cli.bench.servers import Metrics, metrics_of
from harness import MODEL, Server, wait_until

UPTIME = "bros_uptime_seconds", ""


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


def metrics(server: Server) -> Metrics:
    """Return all samples of `/metrics`, by name and class."""
    return metrics_of(server.url)


def nothing_is_held(found: Metrics) -> bool:
    held = found["bros_kv_blocks_total", ""] - found["bros_kv_blocks_free", ""]
    return held == found["bros_kv_host_blocks_used", ""] == 0


def wait_for_stats(server: Server) -> Metrics:
    """Wait until the server is idle and keeps no block; return metrics from after the call."""
    known = [metrics(server)]
    began = known[0][UPTIME]

    def settled() -> bool:
        known.append(metrics(server))
        return known[-1][UPTIME] > began and nothing_is_held(known[-1])

    wait_until(settled, timeout_s=10.0)
    return known[-1]
