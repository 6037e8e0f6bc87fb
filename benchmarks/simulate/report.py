"""Tables of what `compare` found, in Markdown, which is readable on a terminal too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from benchmarks.simulate.compare import Runs, Summary, Times
from benchmarks.simulate.world import Setup

Found = Mapping[Setup, Summary]
Sweep = Mapping[float, Runs]

POLICY_COLUMNS = (
    "",
    "TTFT ms",
    "TPOT ms",
    "e2e s",
    "attained",
    "every token",
    "BE tokens/s",
    "BE output/s",
    "iteration ms",
    "cost error",
    "CPU s per hour",
)
CLAIM_COLUMNS = ("bros against", "RT e2e", "RT TTFT", "attained", "every token", "BE tokens/s")
KV_COLUMNS = (
    "",
    "TTFT ms",
    "attained",
    "BE tokens/s",
    "BE tokens computed again",
    "copies GB",
)
HOUR_S = 3600.0


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return an aligned Markdown table."""
    lines = [list(columns), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    lines.insert(1, ["-" * width for width in widths])
    padded = ([cell.ljust(w) for cell, w in zip(line, widths, strict=True)] for line in lines)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in padded)


def policy_table(runs: Runs, found: Found) -> str:
    """Return everything about each policy; times are mean / p99."""
    return table(POLICY_COLUMNS, ([name, *_cells(s, found[s])] for name, s in runs.items()))


def _cells(setup: Setup, one: Summary) -> list[str]:
    return [
        _times(one.ttft, 1e3),
        _times(one.tpot, 1e3),
        _times(one.e2e, 1.0),
        _share(one.attained),
        _share(one.attained_finely),
        f"{one.be_rate:,.0f}",
        f"{one.be_output_rate:,.0f}",
        f"{1e3 * one.iteration_s:.1f}",
        _share(one.cost_error),
        f"{one.cpu_s * HOUR_S / setup.duration_s:.0f}",
    ]


def claim_table(runs: Runs, found: Found) -> str:
    """Return `bros` in relation to each other policy, in the paper's terms."""
    ours = found[runs["bros"]]
    rows = []
    for name, setup in runs.items():
        other = found[setup]
        if name != "bros":
            rows.append(
                [
                    name,
                    _change(ours.e2e.mean, other.e2e.mean),
                    _change(ours.ttft.mean, other.ttft.mean),
                    _factor(ours.attained, other.attained),
                    _factor(ours.attained_finely, other.attained_finely),
                    _share(ours.be_rate / other.be_rate),
                ]
            )
    return table(CLAIM_COLUMNS, rows)


def sweep_table(what: str, sweep: Sweep, found: Found) -> str:
    """Return attainment and BE tokens/s of each policy for each value of what is swept."""
    names = list(next(iter(sweep.values())))
    rows = (
        [
            f"{x:g}",
            *(f"{_share(found[s].attained)}, {found[s].be_rate:,.0f}" for s in runs.values()),
        ]
        for x, runs in sweep.items()
    )
    return table((what, *names), rows)


def kv_table(runs: Runs, found: Found) -> str:
    """Return what each way to keep KV costs and gains."""
    rows = (
        [
            name,
            _times(found[s].ttft, 1e3),
            _share(found[s].attained),
            f"{found[s].be_rate:,.0f}",
            f"{found[s].lost_tokens:,}",
            f"{found[s].copy_bytes / 1e9:,.1f}",
        ]
        for name, s in runs.items()
    )
    return table(KV_COLUMNS, rows)


def _share(value: float) -> str:
    return "" if value != value else f"{value:.1%}"


def _change(ours: float, other: float) -> str:
    return f"{ours / other - 1:+.1%}"


def _factor(ours: float, other: float) -> str:
    return f"{ours / other:.3g}x" if other else f"{ours:.1%} against 0"


def _times(times: Times, scale: float) -> str:
    if times.mean != times.mean:
        return ""
    digits = 0 if scale > 1 else 1
    return f"{scale * times.mean:,.{digits}f} / {scale * times.p99:,.{digits}f}"
