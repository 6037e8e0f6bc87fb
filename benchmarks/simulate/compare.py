"""The paper's comparisons: which runs they are made of, and what is kept of each run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.simulate.outcome import Outcome
from benchmarks.simulate.trace import Floats, Trace
from benchmarks.simulate.truth import PAIRS
from benchmarks.simulate.world import Setup, simulate

# Baselines keep KV as the systems do that they stand for: a victim loses all of it.
POLICIES = {
    "bros": Setup("", "bros"),
    "priority": Setup("", "priority", kv_mode="recompute"),
    "round-robin": Setup("", "round-robin", kv_mode="recompute"),
    "fcfs": Setup("", "fcfs", kv_mode="recompute"),
}


@dataclass(frozen=True)
class Traffic:
    """RT arrivals, and the lengths of BE requests."""

    rt: Trace
    be: Trace


@dataclass(frozen=True)
class Times:
    """Mean and 99th percentile, in seconds; infinite if so many had no answer."""

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
        )


def policies(pair: str, duration_s: float) -> Iterator[Setup]:
    """Each policy under the pair's usual traffic, and each class alone."""
    rate = PAIRS[pair].rt_rate
    yield Setup(pair, "bros", rt_rate=rate, be_in_flight=0, duration_s=duration_s)
    yield Setup(pair, "bros", rt_rate=0.0, duration_s=duration_s)
    for setup in POLICIES.values():
        yield replace(setup, pair=pair, rt_rate=rate, duration_s=duration_s)


def run(setups: Iterable[Setup], traffic: Traffic, jobs: int) -> dict[Setup, Summary]:
    """All of them, `jobs` at a time."""
    todo = list(setups)
    with ProcessPoolExecutor(jobs) as pool:
        rts, bes = [traffic.rt] * len(todo), [traffic.be] * len(todo)
        outcomes = pool.map(simulate, todo, rts, bes)
        return {
            setup: Summary.of(setup, outcome) for setup, outcome in zip(todo, outcomes, strict=True)
        }
