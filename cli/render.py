"""What commands print: the daemon's state, jobs, durations."""

from __future__ import annotations

import time
from typing import Any

import msgspec
from rich.console import Console, Group, RenderableType
from rich.table import Table

from bros.brosd.client.client import Distribution, JobStatus, KvStats, Stats
from bros.cli.slo import attainment, percentiles, recent_attainment

PIPE_WIDTH = 200  # a pipe has no width, and a wrapped table is hard to read for a script


def duration(seconds: float) -> str:
    """Return seconds as `0:42`, `1:02:03` or `3d 4h`."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}d {hour}h"
    return f"{hour}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def milliseconds(value_s: float | None) -> str:
    """Return seconds as `85 ms`, `31.4 ms` or `12.3 s`."""
    if value_s is None:
        return "-"
    if value_s >= 10:
        return f"{value_s:,.1f} s"
    return f"{value_s * 1000:,.0f} ms" if value_s >= 0.1 else f"{value_s * 1000:.1f} ms"


def short(number: int) -> str:
    """Return a number as `9,999`, `12.3k` or `4.5M`."""
    if number < 10_000:
        return f"{number:,}"
    return f"{number / 1e3:.1f}k" if number < 1_000_000 else f"{number / 1e6:.1f}M"


def size(num_bytes: float) -> str:
    """Return bytes as `0 B` or `1.5 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.0f} B" if unit == "B" else f"{num_bytes:,.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:,.1f} TiB"


def count(number: int, noun: str) -> str:
    """Return a number with its noun: `1 line`, `2 lines`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


CLASS_COLUMNS = (
    "running",
    "waiting",
    "finished",
    "in time",
    "tokens in",
    "tokens out",
    "preempted",
    "prefix asked",
    "prefix hit",
    "memory wait",
)


def show_status(stats: Stats | None, *, json: bool = False) -> None:
    """Print the daemon's state; `stats` is None if the daemon has not reported yet."""
    if json:
        print_json(None if stats is None else as_dict(stats))
    elif stats is None:
        print("starting")
    else:
        print_view(status_view(stats))


def status_view(stats: Stats) -> RenderableType:
    """Return the daemon's state: what it serves, and one row per class of requests."""
    head = Table.grid(padding=(0, 2))
    for name, value in _facts(stats):
        head.add_row(name, value)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("class")
    for name in CLASS_COLUMNS:
        table.add_column(name, justify="right")
    for klass, row in (("real-time", stats.rt), ("best-effort", stats.be)):
        *counts, memory_wait_s = msgspec.structs.astuple(row)
        table.add_row(klass, *(f"{value:,}" for value in counts), f"{memory_wait_s:,.1f} s")
    return Group(head, "", table)


def _facts(stats: Stats) -> list[tuple[str, str]]:
    kv = stats.kv
    used = kv.blocks_total - kv.blocks_free
    share = used / kv.blocks_total if kv.blocks_total else 0.0
    restarts = f"{stats.worker_restarts} worker, {stats.tokenizer_restarts} tokenizer"
    if stats.daemon_restarts:
        restarts += f", {stats.daemon_restarts} daemon"
    facts = [
        ("state", f"{stats.state}, up {duration(stats.uptime_s)}"),
        ("model", f"{stats.model}, up to {stats.max_len:,} tokens"),
        ("policy", stats.policy),
        ("SLO met", _slo_met(stats)),
        ("TTFT", _latency(stats.rt_latency.ttft, stats.slo.ttft_s)),
        ("TPOT", _latency(stats.rt_latency.tpot, stats.slo.tpot_s)),
        ("KV blocks", f"{used:,} of {kv.blocks_total:,} used ({share:.0%})"),
        ("preempted", f"{kv.preempted_blocks:,} blocks; {kv.shared_blocks:,} shared"),
        ("checkpoints", _checkpoints(kv)),
        ("iterations", f"{stats.iterations:,}, now {stats.iteration_s * 1000:.1f} ms each"),
        ("scheduling", _scheduling(stats)),
        ("restarts", restarts),
    ]
    if stats.planning_faults or stats.internal_errors:
        bugs = f"{stats.planning_faults} in plans, {stats.internal_errors} in events: see the log"
        facts.append(("bugs", bugs))
    return facts


def _slo_met(stats: Stats) -> str:
    share, recent = attainment(stats.rt), recent_attainment(stats.rt_latency)
    if share is None:
        return "-"
    shown = f"{share:.1%} of {stats.rt.finished:,}"
    return shown if recent is None else f"{shown}, {recent:.1%} in the last minute"


def _latency(seen: Distribution, objective_s: float) -> str:
    shown = ", ".join(f"{name} {milliseconds(value_s)}" for name, value_s in percentiles(seen))
    return f"{shown} of {milliseconds(objective_s)}"


def _scheduling(stats: Stats) -> str:
    each_ms = stats.scheduling_s * 1000 / max(1, stats.iterations)
    error, p95 = stats.prediction_error, stats.prediction_error_p95
    return (
        f"{each_ms:.2f} ms an iteration, whose time is predicted within {error:.1%} (p95 {p95:.1%})"
    )


def _checkpoints(kv: KvStats) -> str:
    copies = f"{kv.saved_blocks:,} blocks saved, {kv.restored_blocks:,} restored"
    lost = f"{kv.dropped_tokens:,} tokens dropped, {kv.recomputed_tokens:,} computed again"
    return f"{copies} ({kv.copy_bytes / 2**20:,.1f} MiB); {lost}"


def show_jobs(jobs: list[JobStatus], *, json: bool = False) -> None:
    """Print batch jobs, one per row."""
    if json:
        print_json([as_dict(job) for job in jobs])
    elif not jobs:
        print("no batch jobs")
    else:
        print_view(_jobs_table(jobs))


def _jobs_table(jobs: list[JobStatus]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("job", no_wrap=True)
    table.add_column("state")
    for name in ("age", "done", "failed", "tokens out"):
        table.add_column(name, justify="right")
    for job in jobs:
        age = duration(max(0.0, time.time() - job.created_s))
        done = f"{job.completed + job.failed}/{job.total}"
        table.add_row(job.job, job.state, age, done, f"{job.failed}", f"{job.output_tokens:,}")
    return table


def print_view(view: RenderableType) -> None:
    """Print a view, in `PIPE_WIDTH` columns if standard output is not a terminal."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    console.print(view)


def print_json(value: object) -> None:
    """Print one value as JSON."""
    print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def as_dict(struct: msgspec.Struct) -> dict[str, Any]:
    """Return a message as a dict, although it travels as an array."""
    return {name: _plain(value) for name, value in msgspec.structs.asdict(struct).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        return as_dict(value)
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
