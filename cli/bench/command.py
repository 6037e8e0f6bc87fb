"""The options of `bros bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

bench = typer.Typer(help="Measure servers under load.", no_args_is_help=True)


@bench.callback()
def _group() -> None:
    """Keep `hybrid` a subcommand although it is the only one."""


@bench.command()
def hybrid(
    policy: Annotated[
        list[str] | None, typer.Option(help="Start a daemon with this policy. Repeatable.")
    ] = None,
    variant: Annotated[
        list[str] | None,
        typer.Option(help="NAME:section.key=value,... Start a daemon with these. Repeatable."),
    ] = None,
    url: Annotated[
        list[str] | None, typer.Option(help="Any OpenAI-compatible server. Repeatable.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Set a key of all daemons that are started.")
    ] = None,
    duration: Annotated[float, typer.Option(min=1, help="Seconds for each server.")] = 120.0,
    rate: Annotated[float, typer.Option(min=0, help="Real-time requests per second.")] = 1.0,
    trace: Annotated[
        Path | None, typer.Option(help="CSV of arrivals, prompt and output tokens; run at --rate.")
    ] = None,
    rt_in: Annotated[int, typer.Option(min=1, help="Mean prompt tokens, real-time.")] = 120,
    rt_out: Annotated[int, typer.Option(min=1, help="Mean output tokens, real-time.")] = 48,
    be_in: Annotated[int, typer.Option(min=1, help="Mean prompt tokens, best-effort.")] = 300,
    be_out: Annotated[int, typer.Option(min=1, help="Mean output tokens, best-effort.")] = 96,
    in_flight: Annotated[int, typer.Option(min=0, help="Best-effort requests in flight.")] = 64,
    ttft: Annotated[float, typer.Option(min=0.001, help="Objective, seconds.")] = 0.5,
    tpot: Annotated[float, typer.Option(min=0.001, help="Objective, seconds per token.")] = 0.08,
    seed: Annotated[int, typer.Option(min=0, help="First seed.")] = 1,
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Folder for hybrid.json and hybrid.png.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Run real-time requests over a best-effort backlog on several servers or policies.

    Example: bros bench hybrid --policy bros --policy fcfs --seeds 3 --out results
    """
    try:
        from bros.cli.bench.hybrid import Plan, run, servers
    except ModuleNotFoundError as error:
        from bros.cli.errors import InputError

        raise InputError(f"{error}: pip install 'brosd[bench]'") from None
    from bros.cli.bench.load import Objectives
    from bros.cli.bench.workload import Lengths, Workload, read_trace

    workload = Workload(
        duration_s=duration,
        rate=rate,
        rt=Lengths(rt_in, rt_out),
        be=Lengths(be_in, be_out),
        seed=seed,
        trace=read_trace(trace) if trace else (),
    )
    chosen = servers(policy or (), variant or (), url or (), set_ or ())
    run(Plan(chosen, workload, Objectives(ttft, tpot), in_flight, seeds), out, json=json)
