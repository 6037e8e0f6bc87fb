"""The dashboard: one picture of a history, for any size of terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from bros.brosd.client.client import (
    BlockMap,
    ClassStats,
    Distribution,
    JobStatus,
    LatencyStats,
    Stats,
    WorkerStats,
)
from bros.cli.render import duration, milliseconds, short, size
from bros.cli.slo import attainment, percentiles, recent_attainment
from bros.cli.top.charts import STYLES, bars, block_map, glyph, is_unicode
from bros.cli.top.history import History

WIDE = 140  # from this many columns on, the KV cache stands beside the rest
FIXED_ROWS = 22  # of a narrow screen with one row per chart and no block map
LEGEND = (
    ("R", "rt", "RT"),
    ("B", "be", "BE"),
    ("S", "saved", "saved"),
    ("X", "shared", "shared"),
    ("c", "cached", "cached"),
    (".", "free", "free"),
)


@dataclass(frozen=True)
class Frame:
    """The terminal that a picture is drawn for."""

    console: Console
    width: int
    height: int
    foot: str = ""

    @property
    def unicode(self) -> bool:
        return is_unicode(self.console)


def dashboard(history: History, frame: Frame) -> RenderableType:
    """Return the whole picture."""
    head, foot = _head(history, frame), Text(frame.foot, style="dim")
    workers = max(1, len(history.stats.workers))
    if frame.width < WIDE:
        rows = max(1, (frame.height - FIXED_ROWS) // workers)
        left = _left(history, frame, frame.width - 4, 1)
        return Group(head, *left, _kv(history, frame, frame.width - 4, rows), foot)
    half = frame.width // 2
    chart_rows = max(1, min(12, (frame.height - FIXED_ROWS) // 3))
    rows = max(1, (frame.height - 5) // workers)
    grid = Table.grid(expand=True)
    grid.add_column(width=half)
    grid.add_column(width=frame.width - half)
    left = _left(history, frame, half - 4, chart_rows)
    grid.add_row(Group(*left), _kv(history, frame, frame.width - half - 4, rows))
    return Group(head, grid, foot)


def _left(
    history: History, frame: Frame, width: int, chart_rows: int
) -> tuple[RenderableType, ...]:
    return (
        _real_time(history, frame, width, chart_rows),
        _best_effort(history, frame, width, chart_rows),
        _engine(history, frame, width, chart_rows),
    )


def _head(history: History, frame: Frame) -> Text:
    stats = history.stats
    head = Text().append("bros top", style="bold")
    style = "green" if stats.state == "ready" else "yellow"
    head.append(f"  {stats.state}", style=style)
    head.append(f", up {duration(stats.uptime_s)}  {stats.model}  policy {stats.policy}")
    head.truncate(frame.width, overflow="ellipsis")
    return head


# -- classes of requests ------------------------------------------------------------------------


def _real_time(history: History, frame: Frame, width: int, chart_rows: int) -> Panel:
    stats = history.stats
    lines = [
        _queues(stats.rt).append_text(_slo_met(stats.rt, stats.rt_latency)),
        _latency("TTFT", stats.rt_latency.ttft, stats.slo.ttft_s),
        _latency("TPOT", stats.rt_latency.tpot, stats.slo.tpot_s),
        *_chart(
            f"tokens/s {history.rates.rt_tokens:8,.1f}",
            history.course("rt_tokens"),
            width,
            chart_rows,
            frame,
        ),
    ]
    return _panel("real-time", lines, STYLES["R"])


def _best_effort(history: History, frame: Frame, width: int, chart_rows: int) -> Panel:
    stats = history.stats
    lines = [
        _queues(stats.be).append(f"  {history.rates.be_finished * 60:,.0f} a minute"),
        _jobs(history.jobs),
        *_chart(
            f"tokens/s {history.rates.be_tokens:8,.1f}",
            history.course("be_tokens"),
            width,
            chart_rows,
            frame,
        ),
    ]
    return _panel("best-effort", lines, STYLES["B"])


def _jobs(jobs: Sequence[JobStatus]) -> Text:
    """Return the progress of the batch job that runs, and how many wait."""
    if not jobs:
        return Text("no batch job", style="dim")
    job = jobs[0]
    done = job.completed + job.failed
    share = done / job.total if job.total else 0.0
    line = Text(f"{job.job} {job.state.replace('_', ' ')}: {done:,} of {job.total:,} ({share:.0%})")
    if job.failed:
        line.append(f", {job.failed:,} failed", style="red")
    if len(jobs) > 1:
        line.append(f"; {len(jobs) - 1:,} more wait", style="dim")
    return line


def _queues(row: ClassStats) -> Text:
    return Text(f"{row.running:,} running  {row.waiting:,} waiting  {row.finished:,} finished")


def _slo_met(row: ClassStats, latency: LatencyStats) -> Text:
    """Return the share of requests that met their objectives, in the last minute and in total."""
    share, recent = attainment(row), recent_attainment(latency)
    if share is None:
        return Text()
    text = Text("  SLO met ")
    if recent is not None:
        text.append(f"{recent:.1%}", style=_grade(recent)).append(" recently, ")
    return text.append(f"{share:.1%}", style=_grade(share)).append(" in total")


def _grade(share: float) -> str:
    return "bold green" if share >= 0.99 else "bold yellow" if share >= 0.9 else "bold red"


def _latency(name: str, seen: Distribution, objective_s: float) -> Text:
    """Return percentiles of the last minute; one above the objective is red, and marked."""
    line = Text().append(name, style="bold")
    for label, value_s in percentiles(seen):
        late = value_s is not None and value_s > objective_s
        line.append(f"  {label} ", style="dim")
        line.append(f"{milliseconds(value_s):>9}", style="red" if late else "green")
        line.append("!" if late else " ", style="red")
    return line.append(f"  objective {milliseconds(objective_s)}", style="dim")


# -- iterations and memory ----------------------------------------------------------------------


def _engine(history: History, frame: Frame, width: int, chart_rows: int) -> Panel:
    stats, rates = history.stats, history.rates
    traffic = (
        f"preempted {rates.preempted_blocks:,.1f} blocks/s ({stats.kv.preempted_blocks:,})  "
        f"saved {rates.saved_blocks:,.1f}/s  restored {rates.restored_blocks:,.1f}/s"
    )
    copies = (
        f"checkpoints {size(rates.copy_bytes)}/s ({size(stats.kv.copy_bytes)})  "
        f"host {stats.kv.host_blocks_used:,} of {stats.kv.host_blocks_total:,} blocks"
    )
    lines = [
        *_chart(
            f"iteration {stats.iteration_s * 1000:5.1f} ms",
            history.iteration_s,
            width,
            chart_rows,
            frame,
        ),
        Text(traffic),
        Text(copies),
        Text(_promises(stats)),
    ]
    return _panel("iterations and KV traffic", lines, "white")


def _promises(stats: Stats) -> str:
    hits = ", ".join(f"{name} {_hits(row)}" for name, row in (("RT", stats.rt), ("BE", stats.be)))
    error, p95 = stats.prediction_error, stats.prediction_error_p95
    return f"prefix hits {hits}  iterations predicted within {error:.0%} (p95 {p95:.0%})"


def _hits(row: ClassStats) -> str:
    asked = row.prefix_asked_tokens
    return f"{row.prefix_hit_tokens / asked:.0%}" if asked else "-"


def _kv(history: History, frame: Frame, width: int, rows: int) -> Panel:
    workers = history.stats.workers
    lines = [_legend([worker.blocks for worker in workers], frame)]
    for worker in workers:
        lines += _worker(worker, frame, width, rows, named=len(workers) > 1)
    return _panel("KV blocks", lines, "white")


def _legend(maps: Sequence[BlockMap], frame: Frame) -> Text:
    line = Text()
    for letter, field, name in LEGEND:
        total = sum(getattr(blocks, field) for blocks in maps)
        line.append(f"{glyph(letter, frame.console)} ", style=STYLES[letter])
        line.append(f"{name} {short(total)}  ")
    return line


def _worker(worker: WorkerStats, frame: Frame, width: int, rows: int, *, named: bool) -> list[Text]:
    """Return the worker's map, after its name if there are several."""
    label = worker.name if worker.ready else f"{worker.name} starting"
    if not worker.blocks.cells:
        return [Text(label)]
    margin = f"{label}  " if named or not worker.ready else ""
    drawn = block_map(worker.blocks.cells, width - len(margin), rows, frame.console)
    margins = [margin, *[" " * len(margin)] * (len(drawn) - 1)]
    return [Text(left).append_text(row) for left, row in zip(margins, drawn, strict=True)]


def _chart(label: str, values: Sequence[float], width: int, rows: int, frame: Frame) -> list[Text]:
    """Return a chart with its label in the last row."""
    drawn = bars(values, max(0, width - len(label) - 2), rows, unicode=frame.unicode)
    lines = [Text(" " * len(label) + f"  {line}", style="cyan") for line in drawn[:-1]]
    return [*lines, Text(label).append(f"  {drawn[-1]}", style="cyan")]


def _panel(title: str, lines: list[Text], style: str) -> Panel:
    for line in lines:
        line.no_wrap = True
        line.overflow = "ellipsis"
    return Panel(Group(*lines), title=title, title_align="left", border_style=style, padding=(0, 1))
