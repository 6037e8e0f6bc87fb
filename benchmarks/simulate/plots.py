"""A picture for each pair: attainment over objectives and over load, latency, throughput."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.simulate.compare import Runs
from benchmarks.simulate.report import Found, Sweep

COLOURS = {"bros": "tab:blue", "priority": "tab:orange", "round-robin": "tab:green"}
COLOURS |= {"fcfs": "tab:red", "RT alone": "tab:gray", "BE alone": "tab:gray"}


def draw(title: str, runs: Runs, sweeps: Mapping[str, Sweep], found: Found, path: Path) -> None:
    """Write the picture as a PNG. The keys of `sweeps` are labels of what is swept."""
    figure = Figure(figsize=(11, 7), layout="constrained")
    figure.suptitle(title)
    axes = list(figure.subplots(2, 2).flat)
    for one, (label, sweep) in zip(axes, sweeps.items(), strict=False):
        _attained(one, label, sweep, found)
    latency = {n: found[s].e2e.mean for n, s in runs.items() if s.rt_rate}
    rate = {n: found[s].be_rate for n, s in runs.items() if s.be_in_flight}
    _bars(axes[2], "RT end to end, mean, s", latency)
    _bars(axes[3], "BE prompt and output tokens/s", rate)
    figure.savefig(path, dpi=110)


def _attained(axes: Axes, label: str, sweep: Sweep, found: Found) -> None:
    for name in next(iter(sweep.values())):
        shares = [found[runs[name]].attained for runs in sweep.values()]
        axes.plot([*sweep], shares, marker="o", label=name, color=COLOURS[name])
    axes.set(xlabel=label, ylabel="objectives attained", ylim=(-0.03, 1.03))
    axes.grid(alpha=0.3)
    axes.legend()


def _bars(axes: Axes, title: str, values: Mapping[str, float]) -> None:
    axes.barh([*values], [*values.values()], color=[COLOURS[name] for name in values])
    axes.set(title=title)
    axes.invert_yaxis()
