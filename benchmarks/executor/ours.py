"""Measures our executor: iterations on a real block table, without a server."""

from __future__ import annotations

import random
import tempfile
import time
from pathlib import Path
from statistics import median

import torch

from benchmarks.executor import MIXES
from benchmarks.executor.floor import Floor
from bros.brosd.config import load
from bros.brosd.protocol.wire import NewRow, Sampling, StepPlan, pack_ids
from bros.kv import BlockTable, BlockTableView, TableGeometry
from bros.workers.factory import cpu_executor, cuda_executor

CHUNK = 256  # tokens of prompt in an iteration
ROWS, NUM_BLOCKS = 64, 8448
BATCHES, CONTEXTS = (1, 8, 32, 64), (128, 512, 2032)
PROMPT = 1024  # tokens
REPEATS = 12
PREFILL = "prefill tokens/s"
SINGLE_INT8 = f"decode ms, batch 1, context {CONTEXTS[0]}, int8"
GREEDY = Sampling(temperature=0.0)
DRAWN = {"temperature 1": Sampling(), "top-p 0.9": Sampling(top_p=0.9)}


class Bench:
    """Rows in one executor, without classes; row `i` keeps its own blocks."""

    def __init__(self, folder: Path, settings: list[str]) -> None:
        config = load(overrides=[f"kv.num_blocks={NUM_BLOCKS}", *settings], environ={})
        self.device = "cuda:0" if torch.cuda.is_available() else "cpu"
        make = cpu_executor if self.device == "cpu" else cuda_executor
        self.executor = make(folder, config)
        geometry = TableGeometry(NUM_BLOCKS, config.kv.block_size, ROWS, self.executor.max_len)
        path = Path(tempfile.mkdtemp()) / "table"
        self._table = BlockTable(path, geometry)
        self.executor.attach(BlockTableView(path))
        self.executor.warm_up()
        width = NUM_BLOCKS // ROWS
        for row in range(ROWS):
            self._table.blocks[row, :width] = range(row * width, (row + 1) * width)
        self._rng = random.Random(1)

    def step(
        self,
        rows: list[int],
        start: int,
        count: int,
        fresh: int = 0,
        sampling: Sampling = GREEDY,
    ) -> float:
        """Return the seconds of an iteration; `fresh` prompts of that many tokens open the rows."""

        def prompt() -> bytes:
            return pack_ids([self._rng.randrange(100, 49000) for _ in range(fresh)])

        plan = StepPlan(
            step=0,
            rows=pack_ids(rows),
            starts=pack_ids([start] * len(rows)),
            counts=pack_ids([count] * len(rows)),
            new_rows=[NewRow(r, prompt(), fresh, sampling) for r in rows if fresh],
        )
        began_s = time.perf_counter()
        self.executor.step(plan)
        return time.perf_counter() - began_s

    def prefill_s(self, num_rows: int, length: int) -> float:
        """Return the seconds to compute the prompts of the first rows, one after another."""
        return sum(
            self.step([row], at, min(CHUNK, length - at), 0 if at else length)
            for row in range(num_rows)
            for at in range(0, length, CHUNK)
        )

    def decode_s(self, num_rows: int, context: int, sampling: Sampling = GREEDY) -> float:
        """Return the median of some iterations after made-up prompts: only their length matters."""
        rows = list(range(num_rows))
        self.step(rows, 0, 1, fresh=context + 1, sampling=sampling)
        return median(self.step(rows, context + i, 1) for i in range(REPEATS))

    def mix_s(self, num_rows: int, num_input: int, num_output: int) -> float:
        """Return the seconds of all prompts, then all decodes."""
        rows = list(range(num_rows))
        decodes_s = (self.step(rows, num_input + i, 1) for i in range(num_output - 1))
        return self.prefill_s(num_rows, num_input) + sum(decodes_s)


def rounded(folder: Path, settings: list[str]) -> dict[str, float]:
    """Measure int8 where it is meant for: a single stream."""
    bench = Bench(folder, [*settings, "worker.quantize=int8"])
    return {SINGLE_INT8: 1000 * bench.decode_s(1, CONTEXTS[0])}


def floors(floor: Floor) -> dict[str, float]:
    """Return the floor of each figure of `measure` that has one."""
    found = {
        _decode(batch, context): floor.decode_ms(batch, context)
        for context in CONTEXTS
        for batch in BATCHES
    }
    return {**found, PREFILL: floor.prefill_tokens_per_s()}


def _decode(batch: int, context: int) -> str:
    return f"decode ms, batch {batch}, context {context}"


def measure(bench: Bench) -> dict[str, float]:
    """Return our figures by name; a peer's have the same names."""
    figures = {
        _decode(batch, context): 1000 * bench.decode_s(batch, context)
        for context in CONTEXTS
        for batch in BATCHES
    }
    for name, sampling in DRAWN.items():
        figures[f"{_decode(32, 128)}, {name}"] = 1000 * bench.decode_s(32, 128, sampling)
    figures[PREFILL] = PROMPT / min(bench.prefill_s(1, PROMPT) for _ in range(3))
    for rows, num_input, num_output in MIXES:
        seconds = bench.mix_s(rows, num_input, num_output)
        figures[f"output tokens/s, {rows} x {num_input}/{num_output}"] = rows * num_output / seconds
    return figures
