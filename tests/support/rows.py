"""Drives an executor without a daemon, by a real block table and plans made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bros.brosd.config import Config
from bros.brosd.protocol.wire import NewRow, Sampling, StepPlan, pack_ids
from bros.kv import (
    Allocator,
    BlockTable,
    BlockTableView,
    Klass,
    KvOptions,
    TableGeometry,
    TokenChain,
)
from bros.workers.executor.executor import Executor

GREEDY = Sampling(temperature=0.0)


class RowRunner:
    """Sequences of both classes in one executor."""

    def __init__(
        self, executor: Executor, config: Config, path: Path, options: KvOptions | None = None
    ) -> None:
        size = config.kv.block_size
        sizes = TableGeometry(executor.num_blocks, size, 64, executor.max_len, 64, 64)
        table = BlockTable(path, sizes)
        self.allocator = Allocator(table, options)
        self.executor = executor
        executor.attach(BlockTableView(path))
        self.tokens: dict[int, list[int]] = {}
        self.logprobs: dict[int, list[float]] = {}  # of what was sampled, if rows ask for them
        self._new_rows: list[NewRow] = []
        self._step = 0

    def open(self, klass: Klass, prompt: list[int], sampling: Sampling = GREEDY) -> int:
        """Open a row for a new sequence; return its number."""
        tokens = list(prompt)
        row = self.allocator.open_row(klass, TokenChain(tokens, self.allocator.block_size))
        self.tokens[row] = tokens
        self._new_rows.append(NewRow(row, pack_ids(prompt), len(prompt), sampling))
        return row

    def step(self, chunks: Sequence[tuple[int, int]], victims: Sequence[int] = ()) -> None:
        """Run an iteration: each (row, count) computes up to `count` of the row's known tokens.

        It also makes the copies that were logged since the last iteration, by whatever call.
        """
        starts, counts = [], []
        for row, count in chunks:
            start = self.allocator.reuse(row, victims)
            end = min(start + count, len(self.tokens[row]))
            assert self.allocator.grow(row, end, victims)
            starts.append(start)
            counts.append(end - start)
        self._step += 1
        plan = StepPlan(
            step=self._step,
            rows=pack_ids([row for row, _ in chunks]),
            starts=pack_ids(starts),
            counts=pack_ids(counts),
            new_rows=self._new_rows,
            num_copies=self.allocator.num_copies,
        )
        self._new_rows = []
        self.executor.copy(plan)
        choice = self.executor.step(plan)
        done = [r for r, _ in chunks if self.allocator.resident(r) == len(self.tokens[r])]
        for row, token in zip(done, choice.tokens, strict=True):
            self.tokens[row].append(token)
        for item in choice.logprobs:
            self.logprobs.setdefault(done[item.index], []).append(item.logprob)
        self.allocator.begin_plan()

    def pending(self, row: int) -> int:
        """Return how many known tokens of the row have no KV yet."""
        return len(self.tokens[row]) - self.allocator.resident(row)
