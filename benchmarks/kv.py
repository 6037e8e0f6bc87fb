"""KV modes under memory pressure, on the live system: `python -m benchmarks.kv`.

RT requests come in bursts (Poisson, for five seconds of each fifteen) over a closed loop of BE
requests. The pool is a tenth of what these could use. Each mode gets the same trace.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from statistics import mean

import httpx
from rich.console import Console
from rich.table import Table

from benchmarks.daemon import Daemon, daemon
from bros.cli.bench.servers import Metrics

MODEL = "smollm2-135m-instruct"
BE_IN_FLIGHT, BE_INPUT, BE_OUTPUT = 64, 300, 96
RT_PER_S, RT_INPUT, RT_OUTPUT = 4.0, 120, 48
BURST_S, PERIOD_S = 5.0, 15.0
BLOCK = 16
SAMPLE_S = 1.0
MODES = {
    "bidirectional": ["kv.mode=bidirectional"],
    "no sharing": ["kv.mode=bidirectional", "kv.share=false"],
    "recompute": ["kv.mode=recompute"],
    "swap": ["kv.mode=swap"],
}


def body(rng: random.Random, num_input: int, num_output: int, tier: str) -> dict[str, object]:
    """Return a request of exactly these lengths, with a prompt of its own."""
    return {
        "model": MODEL,
        "prompt": [rng.randrange(100, 49000) for _ in range(num_input)],
        "max_tokens": num_output,
        "temperature": 0,
        "ignore_eos": True,
        "service_tier": tier,
        "stream": True,
    }


@dataclass
class Run:
    """The traffic of one mode for `duration_s`, and what was measured."""

    url: str
    duration_s: float
    be_tokens: int = 0
    rt_tokens: int = 0
    rt_ttfts_s: list[float] = field(default_factory=list)

    async def go(self, server: Daemon) -> list[Metrics]:
        """Run the traffic and return the metrics of each second."""
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(timeout=None, limits=limits) as client:
            self._end_s = time.monotonic() + self.duration_s
            tasks = [asyncio.create_task(self._be(client, i)) for i in range(BE_IN_FLIGHT)]
            tasks.append(asyncio.create_task(self._rt_arrivals(client)))
            samples = []
            while time.monotonic() < self._end_s:
                await asyncio.sleep(SAMPLE_S)
                samples.append(await asyncio.to_thread(server.metrics))
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return samples

    async def _be(self, client: httpx.AsyncClient, index: int) -> None:
        rng = random.Random(1000 + index)
        while True:
            lengths = (
                rng.randint(BE_INPUT // 2, BE_INPUT * 3 // 2),
                rng.randint(BE_OUTPUT // 2, BE_OUTPUT * 3 // 2),
            )
            async for _ in self._stream(client, body(rng, *lengths, "flex")):
                self.be_tokens += 1

    async def _rt_arrivals(self, client: httpx.AsyncClient) -> None:
        rng, start_s, due_s = random.Random(7), time.monotonic(), 0.0
        async with asyncio.TaskGroup() as group:
            while True:
                due_s += rng.expovariate(RT_PER_S)
                if due_s % PERIOD_S > BURST_S:
                    due_s += PERIOD_S - due_s % PERIOD_S
                await asyncio.sleep(start_s + due_s - time.monotonic())
                request = body(rng, RT_INPUT, RT_OUTPUT, "default")
                group.create_task(self._rt(client, request))

    async def _rt(self, client: httpx.AsyncClient, request: dict[str, object]) -> None:
        began_s = time.monotonic()
        first = True
        async for _ in self._stream(client, request):
            if first:
                self.rt_ttfts_s.append(time.monotonic() - began_s)
                self.rt_tokens += RT_INPUT
                first = False
            self.rt_tokens += 1

    async def _stream(
        self, client: httpx.AsyncClient, request: dict[str, object]
    ) -> AsyncIterator[str]:
        """Yield the request's events, one per token."""
        async with client.stream("POST", f"{self.url}/v1/completions", json=request) as response:
            response.raise_for_status()
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    yield line


Figures = dict[str, float]


def figures(run: Run, samples: list[Metrics]) -> Figures:
    """Return the figures of one mode."""
    last = samples[-1]
    used = [1 - s["bros_kv_blocks_free", ""] / s["bros_kv_blocks_total", ""] for s in samples]
    rt_tokens = max(1, run.rt_tokens)
    values = (
        1000 * last["bros_memory_wait_seconds_total", "rt"],
        1000 * mean(run.rt_ttfts_s),
        last["bros_preempted_tokens_total", "be"] / rt_tokens,
        last["bros_kv_recomputed_tokens_total", ""] / rt_tokens,
        last["bros_kv_copy_bytes_total", ""] / 2**20,
        last["bros_kv_copy_seconds_total", ""],
        run.be_tokens / run.duration_s,
        100 * mean(used),
    )
    return dict(zip(COLUMNS, values, strict=True))


def table(found: dict[str, list[Figures]]) -> Table:
    """Return the means over the rounds."""
    view = Table("mode", *COLUMNS)
    for name, rounds in found.items():
        means = {column: mean(figures[column] for figures in rounds) for column in COLUMNS}
        view.add_row(name, *(f"{value:.{DIGITS.get(c, 0)}f}" for c, value in means.items()))
    return view


COLUMNS = {
    "RT wait ms": "total time that RT requests waited for blocks",
    "RT TTFT ms": "mean",
    "BE taken": "tokens of BE taken from the pool, per RT token served",
    "BE lost": "tokens of BE that had to be computed again, per RT token served",
    "copies MiB": "to host memory, back, and within the pool",
    "copies s": "in total",
    "BE tokens/s": "output",
    "KV used %": "mean share of blocks with an owner",
}
DIGITS = {"BE taken": 2, "BE lost": 2, "copies MiB": 1, "copies s": 2, "BE tokens/s": 1}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--duration", type=float, default=60.0, help="seconds per mode")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--modes", default=",".join(MODES))
    parser.add_argument("--block-size", type=int, default=BLOCK, help="tokens")
    arguments = parser.parse_args()
    demand = BE_IN_FLIGHT * (BE_INPUT + BE_OUTPUT) // arguments.block_size
    found: dict[str, list[Figures]] = {name: [] for name in arguments.modes.split(",")}
    for number in range(arguments.rounds):
        # Every second round runs backwards, so that a drift of the machine affects all modes.
        for name in [*found][:: -1 if number % 2 else 1]:
            pool = [f"kv.num_blocks={demand // 10}", f"kv.block_size={arguments.block_size}"]
            with daemon(*pool, *MODES[name]) as server:
                run = Run(server.url, arguments.duration)
                found[name].append(figures(run, asyncio.run(run.go(server))))
    console = Console(width=120)
    console.print(table(found))
    for name, rounds in found.items():
        each = ", ".join(f"{one['BE tokens/s']:.1f}" for one in rounds)
        console.print(f"{name:14} BE tokens/s by round: {each}", highlight=False)
    for column, meaning in COLUMNS.items():
        console.print(f"{column:12} {meaning}", highlight=False)


if __name__ == "__main__":
    main()
