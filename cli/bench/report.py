"""Results of a hybrid benchmark: figures per server, as a table, as JSON and as a plot."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean

import msgspec
import numpy as np
from rich.table import Table

from bros.cli.bench.load import Objectives, Record, Seen
from bros.cli.errors import InputError

QUANTILES = (0.5, 0.9, 0.99)


class Latency(msgspec.Struct, frozen=True):
    """A latency of the RT requests that were answered, in seconds."""

    mean: float
    p50: float
    p90: float
    p99: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Latency:
        if not values:
            return cls(*[float("nan")] * 4)
        return cls(fmean(values), *(float(np.quantile(values, q)) for q in QUANTILES))


class Result(msgspec.Struct, frozen=True):
    """One server over all seeds. `attained` and the throughputs are means over the seeds."""

    name: str
    rt_requests: int
    rt_errors: int
    attained: float  # share of RT requests, failed ones included, that met both objectives
    attained_by_seed: list[float]
    ttft: Latency
    tpot: Latency
    e2e: Latency
    be_tokens_per_s: float
    be_tokens_per_s_by_seed: list[float]
    be_finished: int
    be_errors: int
    client_cpu: float  # cores that the client itself used
    # Of BROS daemons, means over the seeds; None for other servers:
    scheduling_s: float | None  # the daemon's own time in an iteration
    prediction_error: float | None  # of iteration times, relative
    prediction_error_p95: float | None

    @classmethod
    def of(cls, name: str, runs: Sequence[Seen], slo: Objectives) -> Result:
        rt = [record for seen in runs for record in seen.rt]
        attained = [_attained(seen.rt, slo) for seen in runs if seen.rt]
        be = [seen.be_tokens_per_s for seen in runs]
        told = [seen.iterations for seen in runs if seen.iterations is not None]
        return cls(
            name=name,
            rt_requests=len(rt),
            rt_errors=sum(record.error is not None for record in rt),
            attained=fmean(attained) if attained else float("nan"),
            attained_by_seed=attained,
            ttft=Latency.of([r.ttft_s for r in rt if r.ttft_s is not None]),
            tpot=Latency.of([r.tpot_s for r in rt if r.tpot_s is not None]),
            e2e=Latency.of([r.e2e_s for r in rt if r.e2e_s is not None]),
            be_tokens_per_s=fmean(be),
            be_tokens_per_s_by_seed=be,
            be_finished=sum(seen.be_finished for seen in runs),
            be_errors=sum(seen.be_errors for seen in runs),
            client_cpu=fmean(seen.client_cpu_s / seen.duration_s for seen in runs),
            scheduling_s=_mean(one.scheduling_s for one in told),
            prediction_error=_mean(one.prediction_error for one in told),
            prediction_error_p95=_mean(one.prediction_error_p95 for one in told),
        )


def _mean(values: Iterable[float]) -> float | None:
    known = list(values)
    return fmean(known) if known else None


def _attained(records: Sequence[Record], slo: Objectives) -> float:
    return fmean(record.met(slo) for record in records)


def table(results: Sequence[Result]) -> Table:
    """Return a row per server; ratios are against the last server, the baseline."""
    view = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    view.add_column("server")
    for name in (
        "RT",
        "in time",
        "TTFT ms p50",
        "p99",
        "TPOT ms p50",
        "p99",
        "e2e s mean",
        "against",
        "BE tok/s",
        "against",
        "errors",
        "cost error",
        "plan ms",
    ):
        view.add_column(name, justify="right")
    for result in results:
        view.add_row(*_row(result, results[-1]))
    return view


def _row(result: Result, baseline: Result) -> list[str]:
    cells = [
        f"{result.rt_requests}",
        f"{result.attained:.1%}",
        f"{result.ttft.p50 * 1000:.0f}",
        f"{result.ttft.p99 * 1000:.0f}",
        f"{result.tpot.p50 * 1000:.1f}",
        f"{result.tpot.p99 * 1000:.1f}",
        f"{result.e2e.mean:.2f}",
        f"{result.e2e.mean / baseline.e2e.mean - 1:+.1%}",
        f"{result.be_tokens_per_s:.1f}",
        f"{result.be_tokens_per_s / (baseline.be_tokens_per_s or 1.0):.1%}",
        f"{result.rt_errors + result.be_errors}",
        "" if result.prediction_error is None else f"{result.prediction_error:.1%}",
        "" if result.scheduling_s is None else f"{result.scheduling_s * 1000:.2f}",
    ]
    return [result.name, *("" if "nan" in cell else cell for cell in cells)]  # there was no RT


def plot(runs: Mapping[str, Sequence[Seen]], slo: Objectives, path: Path) -> None:
    """Write a PNG with cumulative TTFT, TPOT and end-to-end latency of RT, and BE tokens/s."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError(
            "--out draws with matplotlib: pip install 'brosd[bench]', or leave --out away"
        ) from None
    figure = Figure(figsize=(12, 7), layout="constrained")
    ttft, tpot, e2e, be = figure.subplots(2, 2).flat
    for name, seen in runs.items():
        rt = [record for one in seen for record in one.rt]
        for axes, values in (
            (ttft, [record.ttft_s for record in rt]),
            (tpot, [record.tpot_s for record in rt]),
            (e2e, [record.e2e_s for record in rt]),
        ):
            answered = sorted(value for value in values if value is not None)
            axes.step(answered, np.arange(1, len(answered) + 1) / len(values), label=name)
    for axes, title, limit_s in (
        (ttft, "TTFT, s", slo.ttft_s),
        (tpot, "TPOT, s", slo.tpot_s),
        (e2e, "End to end, s", None),
    ):
        axes.set(title=title, ylabel="share of RT requests", xscale="log", ylim=(0, 1))
        axes.grid(alpha=0.3)
        if limit_s is not None:
            axes.axvline(limit_s, color="black", linestyle="--", linewidth=1)
    if runs:
        ttft.legend()
    be.barh([*runs], [fmean(one.be_tokens_per_s for one in seen) for seen in runs.values()])
    be.set(title="BE output tokens/s")
    be.invert_yaxis()
    figure.savefig(path, dpi=120)
