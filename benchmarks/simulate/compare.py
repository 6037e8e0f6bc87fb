"""The paper's comparisons: the runs that they consist of, and what is kept of each run."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.simulate.outcome import Outcome
from benchmarks.simulate.trace import Floats, Trace
from benchmarks.simulate.truth import PAIRS
from benchmarks.simulate.world import Setup, simulate

# Baselines keep KV as the systems that they stand for: a victim loses all of it.
POLICIES = {
    "bros": Setup("", "bros"),
    "priority": Setup("", "priority", kv_mode="recompute"),
    "round-robin": Setup("", "round-robin", kv_mode="recompute"),
    "fcfs": Setup("", "fcfs", kv_mode="recompute"),
}


KV = {
    "bidirectional": Setup("", "bros"),
    "no sharing": Setup("", "bros", share=False),
    "swap": Setup("", "bros", kv_mode="swap"),
    "recompute": Setup("", "bros", kv_mode="recompute"),
}
SLO_SCALES = (0.5, 0.75, 1.0, 1.5, 2.0, 4.0)  # times the pair's objectives
RATES = (0.5, 1.0, 1.5, 2.0, 3.0)  # times the pair's usual RT rate


@dataclass(frozen=True)
class Traffic:
    """The arrivals of RT requests and the lengths of BE requests."""

    rt: Trace
    be: Trace


@dataclass(frozen=True)
class Times:
    """Mean and 99th percentile in seconds; infinite if too many answers are missing."""

    mean: float
    p99: float

    @classmethod
    def of(cls, values: Floats) -> Times:
        if not len(values):
            return cls(float("nan"), float("nan"))
        return cls(float(values.mean()), float(np.quantile(values, 0.99, method="higher")))


@dataclass(frozen=True)
class Summary:
    """What tables and plots need of one run."""

    ttft: Times
    tpot: Times
    e2e: Times
    attained: float
    attained_finely: float
    be_rate: float  # prompt and output tokens per second
    be_output_rate: float
    iteration_s: float
    cost_error: float
    cpu_s: float
    lost_tokens: int  # tokens of BE that were computed again
    copy_bytes: int

    @classmethod
    def of(cls, setup: Setup, outcome: Outcome) -> Summary:
        rt = outcome.rt
        return cls(
            ttft=Times.of(rt.ttft_s),
            tpot=Times.of(rt.tpot_s),
            e2e=Times.of(rt.e2e_s),
            attained=rt.attained(setup.slo),
            attained_finely=rt.attained_finely(setup.slo),
            be_rate=outcome.be_rate,
            be_output_rate=outcome.be_output_rate,
            iteration_s=outcome.iteration_s,
            cost_error=outcome.cost_error,
            cpu_s=outcome.cpu_s,
            lost_tokens=outcome.kv.recomputed_tokens,
            copy_bytes=outcome.kv.copy_bytes,
        )


Setups = Iterable[Setup]
Runs = dict[str, Setup]


def policies(pair: str, duration_s: float) -> Runs:
    """Return each policy under the pair's usual traffic, and each class alone."""
    runs = policies_only(pair, duration_s)
    bros = runs["bros"]
    alone = {"RT alone": replace(bros, be_in_flight=0), "BE alone": replace(bros, rt_rate=0.0)}
    return alone | runs


def policies_only(pair: str, duration_s: float) -> Runs:
    """Return `policies` without the runs of one class alone."""
    return _under(POLICIES, pair, 1.0, duration_s)


def kv_modes(pair: str, duration_s: float) -> Runs:
    """Return one run for each way to keep KV, all with `bros` at twice the usual RT rate."""
    return _under(KV, pair, 2.0, duration_s)


def _under(setups: Runs, pair: str, load: float, duration_s: float) -> Runs:
    """Return the setups on a pair, with `load` times its usual RT traffic."""
    rate = load * PAIRS[pair].rt_rate
    return {
        name: replace(setup, pair=pair, rt_rate=rate, duration_s=duration_s)
        for name, setup in setups.items()
    }


def over_slo_scale(pair: str, duration_s: float) -> dict[float, Runs]:
    """Return each policy with tighter and with wider objectives."""
    runs = policies_only(pair, duration_s)
    return {x: {n: replace(s, slo_scale=x) for n, s in runs.items()} for x in SLO_SCALES}


def over_rate(pair: str, duration_s: float) -> dict[float, Runs]:
    """Return each policy with less and with more RT traffic."""
    runs = policies_only(pair, duration_s)
    return {x: {n: replace(s, rt_rate=x * s.rt_rate) for n, s in runs.items()} for x in RATES}


def run(setups: Setups, traffic: Traffic, jobs: int) -> dict[Setup, Summary]:
    """Run each setup once, `jobs` at a time, and return what is kept of each."""
    todo = list(dict.fromkeys(setups))
    with ProcessPoolExecutor(jobs) as pool:
        rts, bes = [traffic.rt] * len(todo), [traffic.be] * len(todo)
        outcomes = pool.map(simulate, todo, rts, bes)
        return {
            setup: Summary.of(setup, outcome) for setup, outcome in zip(todo, outcomes, strict=True)
        }
