"""The paper's comparisons on a virtual clock: `python -m benchmarks.simulate --traces FOLDER`.

Runs the daemon's scheduler and allocator against cost models of large GPUs and models. RT arrives
as in the Azure conversation trace, over a backlog of long BE requests.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.simulate import compare, plots, report
from benchmarks.simulate.trace import TraceError, long_documents, read
from benchmarks.simulate.truth import PAIRS
from benchmarks.simulate.world import Setup

BACKLOG = 20_000  # BE requests; after the last one they begin again


@dataclass(frozen=True)
class Study:
    """The runs of one pair; the sweeps run for half the time."""

    pair: str
    duration_s: float
    traffic: compare.Traffic
    jobs: int

    def lines(self, out: Path | None) -> Iterator[str]:
        """Yield each table as soon as it is ready; with `out`, write the picture too."""
        half_s = self.duration_s / 2
        runs = compare.policies(self.pair, self.duration_s)
        found = self._run(runs.values())
        pair = PAIRS[self.pair]
        yield f"## {self.pair}\n"
        yield f"RT {pair.rt_rate:g}/s; TTFT {pair.slo.ttft_s:g} s, TPOT {pair.slo.tpot_s:g} s.\n"
        yield report.policy_table(runs, found) + "\n"
        yield report.claim_table(compare.policies_only(self.pair, self.duration_s), found) + "\n"
        kv = compare.kv_modes(self.pair, half_s)
        yield "The `bros` policy at twice the RT rate, by the way KV is kept:\n"
        yield report.kv_table(kv, self._run(kv.values())) + "\n"
        if out is None:
            return
        sweeps = {
            "objectives, times": compare.over_slo_scale(self.pair, half_s),
            "RT rate, times": compare.over_rate(self.pair, half_s),
        }
        for what, sweep in sweeps.items():
            found |= self._run(setup for one in sweep.values() for setup in one.values())
            yield f"Attained, and BE tokens/s, over {what.replace(',', '')} the usual:\n"
            yield report.sweep_table(what, sweep, found) + "\n"
        name = f"{self.pair.replace('/', '-')}.png"
        plots.draw(self.pair, runs, sweeps, found, out / name)
        yield f"![{self.pair}]({name})\n"

    def _run(self, setups: compare.Setups) -> dict[Setup, compare.Summary]:
        return compare.run(setups, self.traffic, self.jobs)


def main() -> None:
    """Print the tables; with --out, run the sweeps and draw too."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--traces", type=Path, default=Path("traces"), help="has conv and code")
    parser.add_argument("--pairs", nargs="+", choices=PAIRS, default=list(PAIRS))
    parser.add_argument("--duration", type=float, default=600.0, help="virtual seconds per run")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--out", type=Path, help="folder for simulation.md and plots")
    arguments = parser.parse_args()
    try:
        conv, code = read(arguments.traces, "conv"), read(arguments.traces, "code")
    except TraceError as error:
        sys.exit(f"error: {error}")
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)  # fails now, not after minutes
    traffic = compare.Traffic(rt=conv, be=long_documents(code, conv, BACKLOG, seed=1))
    lines = []
    for pair in arguments.pairs:
        study = Study(pair, arguments.duration, traffic, arguments.jobs)
        for line in study.lines(arguments.out):
            print(line, flush=True)
            lines.append(line)
    if arguments.out is not None:
        text = "\n".join(["# On a virtual clock\n", *lines])
        (arguments.out / "simulation.md").write_text(text)


if __name__ == "__main__":
    main()
