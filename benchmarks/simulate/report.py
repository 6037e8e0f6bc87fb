"""Tables of what `compare` found."""

from __future__ import annotations

from rich.table import Table

from benchmarks.simulate.compare import Summary, Times
from benchmarks.simulate.world import Setup

COLUMNS = (
    "policy",
    "TTFT ms",
    "TPOT ms",
    "e2e s",
    "attained",
    "every token",
    "BE tokens/s",
    "BE output/s",
    "iteration ms",
    "cost error",
    "CPU s",
)


def policy_table(pair: str, results: dict[Setup, Summary]) -> Table:
    """Policies on one pair; times are mean / p99."""
    table = Table(title=f"{pair}: RT {max(s.rt_rate for s in results):g}/s; mean / p99")
    for index, column in enumerate(COLUMNS):
        table.add_column(column, justify="right" if index else "left")
    for setup, summary in results.items():
        table.add_row(
            name_of(setup),
            _pair(summary.ttft, 1e3),
            _pair(summary.tpot, 1e3),
            _pair(summary.e2e, 1.0),
            f"{summary.attained:.1%}",
            f"{summary.attained_finely:.1%}",
            f"{summary.be_rate:,.0f}",
            f"{summary.be_output_rate:,.0f}",
            f"{1e3 * summary.iteration_s:.1f}",
            f"{summary.cost_error:.1%}",
            f"{summary.cpu_s:.1f}",
        )
    return table


def name_of(setup: Setup) -> str:
    """What the run is called in tables."""
    if not setup.be_in_flight:
        return "RT alone"
    return setup.policy if setup.rt_rate else "BE alone"


def _pair(times: Times, scale: float) -> str:
    digits = 0 if scale > 1 else 1
    return f"{scale * times.mean:,.{digits}f} / {scale * times.p99:,.{digits}f}"
