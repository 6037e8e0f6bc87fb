"""`bros bench hybrid`: RT over a BE backlog on several servers, each with the same traffic."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
from rich.console import Console

from bros.cli.bench.load import LoadGenerator, Objectives, Seen
from bros.cli.bench.report import Result, plot, table
from bros.cli.bench.servers import Server, iterations_of, model_of
from bros.cli.bench.workload import Workload
from bros.cli.errors import InputError

WARM_UP_S = 5.0
PIPE_WIDTH = 200


@dataclass(frozen=True)
class Plan:
    """What to measure."""

    servers: Sequence[Server]
    workload: Workload
    slo: Objectives
    in_flight: int
    seeds: int


def servers(
    policies: Sequence[str], variants: Sequence[str], urls: Sequence[str], settings: Sequence[str]
) -> list[Server]:
    """Return the servers that the options name; without options, the policies `bros` and `fcfs`."""
    if not (policies or variants or urls):
        policies = ("bros", "fcfs")
    found = [Server(url, url.rstrip("/")) for url in urls]
    for variant in variants:
        name, colon, keys = variant.partition(":")
        if not colon:
            raise InputError(f"--variant {variant}: expected NAME:section.key=value,...")
        found.append(Server(name, settings=(*settings, *keys.split(","))))
    for policy in policies:
        found.append(Server(policy, settings=(*settings, f"scheduler.policy={policy}")))
    return found


def measure(plan: Plan, console: Console) -> dict[str, list[Seen]]:
    """Run all servers for each seed in turn, so that a drift of the machine affects all of them."""
    runs: dict[str, list[Seen]] = {server.name: [] for server in plan.servers}
    for seed in range(plan.workload.seed, plan.workload.seed + plan.seeds):
        for server in plan.servers:
            with server.running() as url:
                model = model_of(url)
                warm_up = replace(plan.workload, seed=-1 - seed, duration_s=WARM_UP_S)
                console.print(f"{server.name}: seed {seed}, {plan.workload.duration_s:g} s")
                asyncio.run(LoadGenerator(url, model, warm_up, plan.slo, plan.in_flight).run())
                workload = replace(plan.workload, seed=seed)
                load = LoadGenerator(url, model, workload, plan.slo, plan.in_flight)
                seen = asyncio.run(load.run())
                seen.iterations = iterations_of(url)
                runs[server.name].append(seen)
    return runs


def run(plan: Plan, out: Path | None, *, json: bool) -> None:
    """Measure and print; with `out`, write the results and a plot to this folder too."""
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        plot({}, plan.slo, out / "hybrid.png")  # fails now if it must, and not after an hour
    runs = measure(plan, Console(stderr=True, highlight=False))
    results = [Result.of(name, seen, plan.slo) for name, seen in runs.items()]
    document = msgspec.json.format(msgspec.json.encode(results), indent=2)
    if out is not None:
        (out / "hybrid.json").write_bytes(document)
        plot(runs, plan.slo, out / "hybrid.png")
    if json:
        print(document.decode())
        return
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    console.print(table(results))
