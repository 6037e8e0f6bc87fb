"""Runs the iterations that the daemon plans, on one device.

Knows the rows of the block table, their tokens and how they sample; nothing of requests, classes
or deadlines. One forward per iteration mixes decodes and prompt chunks, packed into a single row
of tokens. How a forward is computed is the backend's business.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from bros.brosd.config import Config
from bros.brosd.protocol.wire import StepPlan, unpack_ids
from bros.kv import BlockTableView, Klass
from bros.workers.attention.interface import AttentionBatch
from bros.workers.executor.backend import Backend, Runner
from bros.workers.executor.checkpoints import Copied
from bros.workers.executor.rehearsal import (
    GREEDY,
    WAYS_TO_DRAW,
    Rehearsal,
    draw_like,
    warm_up_shapes,
)
from bros.workers.executor.sequences import Sequences, SequenceState
from bros.workers.sampling.grammar import Grammars
from bros.workers.sampling.sampler import Choice, draw_all
from bros.workers.tensor_parallel import ALONE, Ranks


@dataclass(frozen=True)
class _Attached:
    """What there is once the daemon has made the block table."""

    view: BlockTableView
    runner: Runner
    sequences: Sequences


class Executor:
    """One rank's executor. Call `attach`, then `warm_up`, then `copy` and `step` for each plan."""

    def __init__(
        self, backend: Backend, folder: Path, config: Config, ranks: Ranks = ALONE
    ) -> None:
        """`folder` is the model's, whose tokenizer grammars need."""
        self._backend = backend
        self._block_size = config.kv.block_size
        self._configured_len = config.model.max_len
        self._draws_tokens = ranks.rank == 0
        self._grammars = Grammars(folder)
        self._due: list[SequenceState] = []  # those whose next token the last iteration gave
        self._attached: _Attached | None = None

    @property
    def vocab_size(self) -> int:
        return self._backend.shape.vocab_size

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of keys and values of one token, in all layers and on all ranks."""
        return self._backend.kv_bytes_per_token

    @property
    def num_blocks(self) -> int:
        """Blocks that the KV pool has, or will have."""
        return self._backend.num_blocks

    @property
    def max_len(self) -> int:
        """Tokens that one sequence may have, by model, configuration and pool."""
        limits = [self._backend.shape.max_len, self.num_blocks * self._block_size]
        if self._configured_len is not None:
            limits.append(self._configured_len)
        return min(limits)

    def attach(self, view: BlockTableView) -> None:
        """Allocate the pool that `view` describes, and forget all rows."""
        runner = self._backend.attach(view.geometry)
        self._attached = _Attached(view, runner, Sequences(view.geometry.max_len, self._grammars))

    @property
    def runner(self) -> Runner:
        """What runs iterations over the pool."""
        return self._ready.runner

    @property
    def _ready(self) -> _Attached:
        if self._attached is None:
            raise RuntimeError("attach() first")
        return self._attached

    def warm_up(self) -> None:
        """Compile all variants of the kernels, and those of all ways to draw."""
        for starts, counts in self.warm_up_shapes:
            logits = self._rehearse(starts, counts)
            for sampling in WAYS_TO_DRAW:
                draw_like(logits, sampling)
        self.runner.finish_warm_up()

    @property
    def warm_up_shapes(self) -> list[tuple[list[int], list[int]]]:
        """Starts and counts of the iterations of `warm_up`."""
        return warm_up_shapes(self._ready.view.geometry.max_len)

    def rehearse(self, starts: list[int], counts: list[int]) -> None:
        """Run an iteration of chunks of `counts` tokens after `starts`, of rows that are made up.

        Only while no row is known: it writes all over the pool.
        """
        draw_like(self._rehearse(starts, counts), GREEDY)

    def _rehearse(self, starts: list[int], counts: list[int]) -> torch.Tensor:
        made_up = Rehearsal.of(starts, counts, self.num_blocks, self._block_size)
        return self._forward(made_up.ids, made_up.batch, made_up.last)

    def copy(self, plan: StepPlan) -> None:
        """Make the plan's checkpoint copies: before `step`, which overwrites what they save."""
        self.runner.copy(self._ready.view.copies[: plan.num_copies])

    def copied(self) -> Copied:
        """Return what the copies of the last plan took."""
        return self.runner.copied()

    def step(self, plan: StepPlan) -> Choice:
        """Run one iteration; return what the rows that sampled have sampled, in plan order."""
        if not plan.rows:
            return Choice()
        logits = self._compute(plan)
        choice = draw_all(logits, [sequence.draw() for sequence in self._due])
        self.append_tokens(choice.tokens)
        return choice

    def follow(self, plan: StepPlan) -> None:
        """Run one iteration whose tokens another rank draws: `append_tokens` must come next."""
        if plan.rows:
            self._compute(plan)

    def append_tokens(self, tokens: list[int]) -> None:
        """Append the tokens that the last iteration sampled to their sequences."""
        for sequence, token in zip(self._due, tokens, strict=True):
            sequence.append(token)

    def _compute(self, plan: StepPlan) -> torch.Tensor:
        """Return the logits of the sequences that sample, which are then those in `_due`."""
        sequences = self._ready.sequences
        sequences.open(plan.new_rows)
        rows, starts, counts = (
            unpack_ids(column) for column in (plan.rows, plan.starts, plan.counts)
        )
        batch = self._batch(rows, starts, counts)
        known = sequences.of(rows)
        ids = np.concatenate(
            [row.tokens[s : s + n] for row, s, n in zip(known, starts, counts, strict=True)]
        )
        ends = starts + counts
        samples = np.array([end == row.length for row, end in zip(known, ends, strict=True)])
        self._due = [row for row, is_due in zip(known, samples, strict=True) if is_due]
        return self._forward(ids, batch, batch.offsets[1:][samples] - 1)

    def _batch(self, rows: np.ndarray, starts: np.ndarray, counts: np.ndarray) -> AttentionBatch:
        """Read the rows' blocks from the shared table: the plan says that they are in place."""
        view = self._ready.view
        width = -(-int((starts + counts).max()) // self._block_size)
        return AttentionBatch(
            starts=starts,
            counts=counts,
            tables=view.blocks[rows, :width],
            reverse=view.klass[rows] == Klass.BE,
            block_size=self._block_size,
        )

    def _forward(self, ids: np.ndarray, batch: AttentionBatch, last: np.ndarray) -> torch.Tensor:
        """Return logits after the queries `last`; of the first alone on a rank that draws none."""
        return self.runner.forward(ids, batch, last if self._draws_tokens else last[:1])
