"""The paper's comparisons on a virtual clock: `python -m benchmarks.simulate --traces FOLDER`.

Runs the daemon's scheduler and allocator against cost models of large GPUs and models, RT arriving
as in the Azure conversation trace, over a backlog of long BE requests.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from benchmarks.simulate.compare import Traffic, policies, run
from benchmarks.simulate.report import policy_table
from benchmarks.simulate.trace import TraceError, long_documents, read
from benchmarks.simulate.truth import PAIRS

BACKLOG = 20_000  # BE requests; they are used again in the same order after that


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--traces", type=Path, default=Path("traces"), help="with conv and code")
    parser.add_argument("--pairs", nargs="+", choices=PAIRS, default=list(PAIRS))
    parser.add_argument("--duration", type=float, default=600.0, help="virtual seconds per run")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    arguments = parser.parse_args()
    try:
        conv, code = read(arguments.traces, "conv"), read(arguments.traces, "code")
    except TraceError as error:
        sys.exit(f"error: {error}")
    traffic = Traffic(rt=conv, be=long_documents(code, conv, BACKLOG, seed=1))
    console = Console(width=140)
    for pair in arguments.pairs:
        results = run(policies(pair, arguments.duration), traffic, arguments.jobs)
        console.print(policy_table(pair, results))


if __name__ == "__main__":
    main()
