"""The executor on CPU, without a server: `python -m benchmarks.executor MODEL_FOLDER`.

Calls `Executor` on a real block table. `--vllm PYTHON` and `--llama PYTHON --gguf FILE` name
interpreters of the peers' environments and measure them in the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bros.workers.executor import Executor

HERE = Path(__file__).parent
CHUNK = 256  # tokens of prompt in an iteration
DECODES = [(1, 128), (1, 512), (1, 2048), (8, 128), (8, 512), (32, 128), (32, 512), (64, 128)]
MIXES = [(32, 128, 64), (64, 256, 64)]


class Bench:
    """Rows in one executor, without classes: row `i` has its own blocks for good."""

    def __init__(self, folder: Path, settings: list[str]) -> None:
        from bros.brosd.config import load
        from bros.kv import BlockTable, BlockTableView, TableGeometry
        from bros.workers.executor import Executor

        config = load(overrides=["kv.num_blocks=8448", *settings], environ={})
        self.executor: Executor = Executor(folder, config)
        geometry = TableGeometry(8448, config.kv.block_size, 64, self.executor.max_len)
        path = Path(tempfile.mkdtemp()) / "table"
        self._table = BlockTable(path, geometry)
        self.executor.attach(BlockTableView(path))
        self.executor.warm_up()
        width = 8448 // 64
        for row in range(64):
            self._table.blocks[row, :width] = range(row * width, (row + 1) * width)
        self._rng = random.Random(1)

    def step(self, rows: list[int], start: int, count: int, fresh: int = 0) -> float:
        """Seconds of one iteration; `fresh` prompts of that many tokens open the rows."""
        from bros.brosd.wire import Fresh, Sampling, StepPlan, pack_ids

        def prompt() -> bytes:
            return pack_ids([self._rng.randrange(100, 49000) for _ in range(fresh)])

        plan = StepPlan(
            step=0,
            rows=pack_ids(rows),
            starts=pack_ids([start] * len(rows)),
            counts=pack_ids([count] * len(rows)),
            fresh=[Fresh(r, prompt(), fresh, Sampling(temperature=0.0)) for r in rows if fresh],
        )
        began_s = time.perf_counter()
        self.executor.step(plan)
        return time.perf_counter() - began_s

    def prefill(self, num_rows: int, length: int) -> float:
        """Seconds to compute the prompts of the first rows."""
        return sum(
            self.step([row], at, min(CHUNK, length - at), 0 if at else length)
            for row in range(num_rows)
            for at in range(0, length, CHUNK)
        )

    def decode_ms(self, num_rows: int, context: int) -> float:
        """Median of some iterations."""
        self.prefill(num_rows, context)
        rows = list(range(num_rows))
        return 1000 * median(self.step(rows, context + i, 1) for i in range(12))

    def mix(self, num_rows: int, num_input: int, num_output: int) -> float:
        """Output tokens per second: all prompts, then all decodes."""
        seconds = self.prefill(num_rows, num_input)
        rows = list(range(num_rows))
        seconds += sum(self.step(rows, num_input + i, 1) for i in range(num_output - 1))
        return num_rows * num_output / seconds


def measure(bench: Bench) -> dict[str, float]:
    """Our figures, under the peers' names."""
    figures = {f"decode ms, batch {b}, context {c}": bench.decode_ms(b, c) for b, c in DECODES}
    figures["prefill tokens/s"] = 1024 / min(bench.prefill(1, 1024) for _ in range(2))
    for rows, num_input, num_output in MIXES:
        name = f"output tokens/s, {rows} x {num_input}/{num_output}"
        figures[name] = bench.mix(rows, num_input, num_output)
    return figures


def profile(run: Callable[[], object]) -> str:
    """Where the time of some iterations goes: functions by their own time."""
    import cProfile
    import io
    import pstats

    profiler = cProfile.Profile()
    profiler.runcall(run)
    text = io.StringIO()
    pstats.Stats(profiler, stream=text).sort_stats("tottime").print_stats(12)
    return text.getvalue()


def peer(script: str, python: str, model: Path) -> dict[str, float]:
    """A peer's figures, measured in its own environment. Its last line of output is JSON."""
    command = [python, str(HERE / script), str(model)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def report(name: str, ours: dict[str, float], theirs: dict[str, float]) -> None:
    """One line per figure of the peer: both, and how many times faster we are."""
    for key, value in theirs.items():
        ratio = value / ours[key] if " ms" in key else ours[key] / value
        print(f"{name:10} {key:36} {ours[key]:9.1f} {value:9.1f} {ratio:6.2f}", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--set", action="append", default=[], help="section.key=value")
    parser.add_argument("--vllm", help="Python of an environment with vLLM")
    parser.add_argument("--llama", help="Python of an environment with llama-cpp-py-sync")
    parser.add_argument("--gguf", type=Path, help="the model for llama.cpp")
    parser.add_argument("--profile", action="store_true", help="profile decodes at batch 32")
    arguments = parser.parse_args()
    threads = str(len(os.sched_getaffinity(0)))
    os.environ.setdefault("OMP_NUM_THREADS", threads)
    os.environ.setdefault("NUMBA_NUM_THREADS", threads)
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as in the worker
    bench = Bench(arguments.model, arguments.set)
    ours = measure(bench)
    for key, value in ours.items():
        print(f"{'bros':10} {key:36} {value:9.1f}", flush=True)
    if arguments.profile:
        print(profile(lambda: bench.decode_ms(32, 128)), flush=True)
    if arguments.llama:
        report("llama.cpp", ours, peer("peer_llama.py", arguments.llama, arguments.gguf))
    if arguments.vllm:
        report("vllm", ours, peer("peer_vllm.py", arguments.vllm, arguments.model))


if __name__ == "__main__":
    main()
