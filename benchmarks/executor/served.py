"""The request mixes through a server: ours, or any that speaks OpenAI's completions."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from benchmarks.executor import MIXES
from bros.cli.bench.servers import free_port, model_of, private_daemon

START_S = 300.0  # a peer may compile for minutes


def measure(url: str, *, best_effort: bool) -> dict[str, float]:
    """Output tokens/s of each mix: all requests at once, until the last has its answer."""
    model = model_of(url)
    asyncio.run(_mix(url, model, (4, 32, 4), best_effort))  # warm
    return {
        f"served tokens/s, {count} x {num_input}/{num_output}": count
        * num_output
        / min(
            asyncio.run(_mix(url, model, (count, num_input, num_output), best_effort))
            for _ in range(2)
        )
        for count, num_input, num_output in MIXES
    }


async def _mix(url: str, model: str, mix: tuple[int, int, int], best_effort: bool) -> float:
    count, num_input, num_output = mix
    rng = random.Random(time.time_ns())  # no prompt is in a cache

    def body() -> dict[str, object]:
        return {
            "model": model,
            "prompt": [rng.randrange(1000, 21000) for _ in range(num_input)],
            "max_tokens": num_output,
            "temperature": 0,
            "ignore_eos": True,
        } | ({"service_tier": "flex"} if best_effort else {})

    async with httpx.AsyncClient(base_url=url, timeout=None) as client:
        began_s = time.perf_counter()
        answers = await asyncio.gather(
            *(client.post("/v1/completions", json=body()) for _ in range(count))
        )
        seconds = time.perf_counter() - began_s
    for answer in answers:
        found = answer.raise_for_status().json()["usage"]["completion_tokens"]
        assert found == num_output, answer.text
    return seconds


def ours(settings: list[str]) -> dict[str, float]:
    """Through a daemon of our own."""
    with private_daemon(settings) as url:
        return measure(url, best_effort=True)


def vllm(python: Path, model: Path) -> dict[str, float]:
    """Through vLLM's server."""
    with _vllm_server(python, model) as url:
        return measure(url, best_effort=False)


@contextmanager
def _vllm_server(python: Path, model: Path) -> Iterator[str]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    command += ["--port", str(port), "--dtype", "bfloat16", "--max-model-len", "2048"]
    command += ["--max-num-seqs", "64", "--no-enable-prefix-caching"]
    environ = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_LOGGING_LEVEL": "ERROR"}
    with subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL) as process:
        try:
            _wait(url, process)
            yield url
        finally:
            process.terminate()


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline_s = time.monotonic() + START_S
    while time.monotonic() < deadline_s and process.poll() is None:
        try:
            if httpx.get(f"{url}/health").status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(1.0)
    raise SystemExit("vLLM's server did not start; see its messages above")
