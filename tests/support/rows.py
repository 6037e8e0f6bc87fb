"""Drives an executor without a daemon: writes rows into a real block table, plans by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bros.brosd.config import Config
from bros.brosd.wire import Fresh, Sampling, StepPlan, pack_ids
from bros.kv import Allocator, BlockTable, BlockTableView, Klass, TableGeometry
from bros.workers.executor import Executor

GREEDY = Sampling(temperature=0.0)


class RowRunner:
    """Sequences of both classes in one executor."""

    def __init__(self, executor: Executor, config: Config, path: Path) -> None:
        geometry = TableGeometry(executor.num_blocks, config.kv.block_size, 64, executor.max_len)
        self.allocator = Allocator(BlockTable(path, geometry))
        self.executor = executor
        executor.attach(BlockTableView(path))
        self.tokens: dict[int, list[int]] = {}
        self._fresh: list[Fresh] = []
        self._step = 0

    def open(self, klass: Klass, prompt: list[int], sampling: Sampling = GREEDY) -> int:
        row = self.allocator.open_row(klass)
        self.tokens[row] = list(prompt)
        self._fresh.append(Fresh(row, pack_ids(prompt), len(prompt), sampling))
        return row

    def step(self, chunks: Sequence[tuple[int, int]]) -> None:
        """One iteration: each (row, count) computes the row's next `count` known tokens."""
        starts = [self.allocator.resident(row) for row, _ in chunks]
        for (row, count), start in zip(chunks, starts, strict=True):
            assert self.allocator.grow(row, start + count)
        self._step += 1
        plan = StepPlan(
            step=self._step,
            rows=pack_ids([row for row, _ in chunks]),
            starts=pack_ids(starts),
            counts=pack_ids([count for _, count in chunks]),
            fresh=self._fresh,
        )
        self._fresh = []
        sampled = iter(self.executor.step(plan))
        for row, _ in chunks:
            if self.allocator.resident(row) == len(self.tokens[row]):
                self.tokens[row].append(next(sampled))
        assert next(sampled, None) is None

    def pending(self, row: int) -> int:
        return len(self.tokens[row]) - self.allocator.resident(row)
