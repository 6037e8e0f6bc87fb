"""Runs the iterations of one device: a transformers model around our attention.

Knows rows and their tokens; nothing of requests, classes or deadlines. One forward per iteration
mixes decodes and prompt chunks, packed into a single row of tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from llguidance import LLMatcher
from transformers import AttentionInterface, AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from bros.brosd.config import Config
from bros.brosd.protocol.wire import NewRow, Sampling, StepPlan, unpack_ids
from bros.kv import BlockTableView, Klass
from bros.workers.attention.interface import Attention, AttentionBatch, KvPool
from bros.workers.executor.checkpoints import CheckpointCopier, Copied
from bros.workers.executor.forward import Forward, make_forward, packed
from bros.workers.models.shape import ModelShape
from bros.workers.sampling.grammar import Grammars
from bros.workers.sampling.sampler import Choice, Draw, draw_all
from bros.workers.tensor_parallel import ALONE, Ranks, Shards

DTYPES = {
    "auto": torch.bfloat16,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
}
ATTENTION_NAME = "bros_paged"
LONG = 1000  # tokens of a row that threads share
GREEDY = Sampling(temperature=0.0)


@dataclass
class SequenceState:
    """The known tokens of a sequence: `tokens[:length]`, of which `num_prompt` are its prompt."""

    tokens: np.ndarray  # (max_len,), int32
    length: int
    num_prompt: int
    sampling: Sampling
    matcher: LLMatcher | None = None  # the state of its grammar

    def append(self, token: int) -> None:
        self.tokens[self.length] = token
        self.length += 1

    def draw(self) -> Draw:
        known = self.tokens[: self.length]
        return Draw(self.sampling, known, self.num_prompt, self.matcher)


def _attend(
    module: torch.nn.Module,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None,
    *,
    scaling: float,
    paged: Attention,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention function: (1, heads, tokens, head_dim) in, (1, tokens, ...) out."""
    layer: int = module.layer_idx  # type: ignore[assignment]
    q, k, v = (tensor[0].transpose(0, 1).contiguous() for tensor in (q, k, v))
    return paged(layer, q, k, v, scaling)[None], None


transformers_logging.disable_progress_bar()  # this process logs, it has no terminal
AttentionInterface.register(ATTENTION_NAME, _attend)
# No mask is registered under that name, so transformers makes none: the kernels mask.


class Executor:
    """The model, its KV pool, and the rows that it knows."""

    def __init__(self, folder: Path, config: Config, ranks: Ranks = ALONE) -> None:
        """Load the model, or this rank's part. UnsupportedModel if it is not ours to compute."""
        self._config = config
        self._ranks = ranks
        self._dtype = DTYPES[config.model.dtype]
        self.shape = ModelShape.of(folder)
        self._kv_heads = self.shape.kv_heads  # of this rank
        self._run = self._make_forward(self._load(folder))
        self._grammars = Grammars(folder, self.shape.vocab_size)
        self._sampled: list[SequenceState] = []  # whose next tokens are due
        self._rows: dict[int, SequenceState] = {}
        self._view: BlockTableView | None = None
        self._attention: Attention | None = None
        self._checkpoints: CheckpointCopier | None = None
        self._max_len = 0

    def _load(self, folder: Path) -> torch.nn.Module:
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=self._dtype,
            attn_implementation=ATTENTION_NAME,
            local_files_only=True,
        ).eval()
        if self._ranks.size > 1:
            shards = Shards(self._ranks, self.shape)
            shards.cut(model)
            self._kv_heads = shards.num_kv_heads
        return model  # type: ignore[no-any-return]

    def _make_forward(self, model: torch.nn.Module) -> Forward:
        quantize = self._config.worker.quantize
        if self._ranks.size == 1:
            return make_forward(model, quantize)
        if quantize != "none":
            raise ValueError("worker.quantize is not supported with worker.tensor_parallel")
        return packed(model)  # ours does not add up over ranks

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of keys and values of one token, in all layers and on all ranks."""
        shape = self.shape
        return KvPool.bytes_per_token(shape.num_layers, shape.kv_heads, shape.head_dim, self._dtype)

    @property
    def num_blocks(self) -> int:
        """Blocks that the configured pool has."""
        kv = self._config.kv
        return kv.num_blocks or kv.pool_bytes // (self.kv_bytes_per_token * kv.block_size)

    @property
    def max_len(self) -> int:
        """Tokens that one sequence may have, by model, configuration and pool."""
        limits = [self.shape.max_len, self.num_blocks * self._config.kv.block_size]
        if self._config.model.max_len is not None:
            limits.append(self._config.model.max_len)
        return min(limits)

    def attach(self, view: BlockTableView) -> None:
        """Allocate the pool that `view` describes."""
        geometry, shape = view.geometry, self.shape
        pool = KvPool(
            shape.num_layers,
            geometry.num_blocks,
            geometry.block_size,
            self._kv_heads,
            shape.head_dim,
            self._dtype,
        )
        self._attention = make_attention(self._config.worker.attention, pool)
        self._checkpoints = CheckpointCopier(pool, geometry.host_slots)
        self._view = view
        self._max_len = geometry.max_len

    def warm_up(self) -> None:
        """Compile all variants of the kernels: for many tokens, for few, for one, for long rows.

        And those of all ways to draw.
        """
        for starts, counts in self.warm_up_shapes:
            logits = self._rehearse(starts, counts)
            for sampling in (GREEDY, Sampling(), Sampling(top_p=0.5)):
                _draw_like(logits, sampling)

    @property
    def warm_up_shapes(self) -> list[tuple[list[int], list[int]]]:
        """Starts and counts of the iterations of `warm_up`."""
        first = [([0], [min(count, self._max_len)]) for count in (32, 2, 1)]
        return [*first, ([min(LONG, self._max_len - 1)], [1])]

    def rehearse(self, starts: list[int], counts: list[int]) -> None:
        """Run an iteration of chunks of `counts` tokens after `starts`, of rows that are made up.

        Only while no row is known: it writes all over the pool.
        """
        _draw_like(self._rehearse(starts, counts), GREEDY)

    def _rehearse(self, starts: list[int], counts: list[int]) -> torch.Tensor:
        begin, count = np.array(starts, np.int32), np.array(counts, np.int32)
        width = self._blocks_for(int((begin + count).max()))
        tables = np.arange(len(starts) * width, dtype=np.int32).reshape(len(starts), width)
        batch = AttentionBatch(
            starts=begin,
            counts=count,
            tables=tables % self.num_blocks,
            reverse=np.zeros(len(starts), np.bool_),
            block_size=self._config.kv.block_size,
        )
        ids = np.zeros(int(count.sum()), np.int32)
        last = batch.offsets[1:] - 1
        return self._forward(ids, batch, last if self._ranks.rank == 0 else last[:1])

    def copy(self, plan: StepPlan) -> None:
        """Make the plan's checkpoint copies: before `step`, which overwrites what they save."""
        if self._view is None:
            raise RuntimeError("attach() first")
        self._run_copies(self._view.copies[: plan.num_copies])

    def _run_copies(self, entries: np.ndarray) -> None:
        if self._checkpoints is not None:
            self._checkpoints.run(entries)

    def copied(self) -> Copied:
        """What the copies of the last plan took."""
        return self._checkpoints.copied() if self._checkpoints else Copied()

    def step(self, plan: StepPlan) -> Choice:
        """Run one iteration; what the rows that sampled have sampled, in plan order."""
        if not plan.rows:
            return Choice([], [])
        logits = self._compute(plan)
        choice = draw_all(logits, [row.draw() for row in self._sampled])
        self.take(choice.tokens)
        return choice

    def follow(self, plan: StepPlan) -> None:
        """Run one iteration of which another rank draws the tokens: `take` comes next."""
        if plan.rows:
            self._compute(plan)

    def take(self, tokens: list[int]) -> None:
        """Append the last iteration's tokens to their rows."""
        for row, token in zip(self._sampled, tokens, strict=True):
            if row.length < len(row.tokens):
                row.append(token)

    def _compute(self, plan: StepPlan) -> torch.Tensor:
        """The logits of the rows that sample, which are then `_sampled`."""
        for new_row in plan.new_rows:
            self._rows[new_row.row] = self._known(new_row)
        rows, starts, counts = (
            unpack_ids(column) for column in (plan.rows, plan.starts, plan.counts)
        )
        batch = self._batch(rows, starts, counts)
        known = [self._rows[int(row)] for row in rows]
        ids = np.concatenate(
            [row.tokens[s : s + n] for row, s, n in zip(known, starts, counts, strict=True)]
        )
        ends = starts + counts
        sampling = np.array([end == row.length for row, end in zip(known, ends, strict=True)])
        self._sampled = [row for row, samples in zip(known, sampling, strict=True) if samples]
        last = batch.offsets[1:][sampling] - 1
        return self._forward(ids, batch, last if self._ranks.rank == 0 else last[:1])

    def _known(self, new_row: NewRow) -> SequenceState:
        tokens = np.empty(self._max_len, np.int32)
        known = unpack_ids(new_row.tokens)
        tokens[: len(known)] = known
        output = known[new_row.num_prompt :]
        matcher = self._grammars.matcher(new_row.sampling.grammar, output)
        return SequenceState(tokens, len(known), new_row.num_prompt, new_row.sampling, matcher)

    def _batch(self, rows: np.ndarray, starts: np.ndarray, counts: np.ndarray) -> AttentionBatch:
        """Read the rows' blocks from the shared table, which the plan says are in place."""
        if self._view is None:
            raise RuntimeError("attach() first")
        width = self._blocks_for(int((starts + counts).max()))
        return AttentionBatch(
            starts=starts,
            counts=counts,
            tables=self._view.blocks[rows, :width],
            reverse=self._view.klass[rows] == Klass.BE,
            block_size=self._config.kv.block_size,
        )

    def _blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self._config.kv.block_size)

    @torch.inference_mode()
    def _forward(self, ids: np.ndarray, batch: AttentionBatch, last: np.ndarray) -> torch.Tensor:
        """Logits (len(last), vocabulary) after the queries `last` of the batch."""
        if self._attention is None:
            raise RuntimeError("attach() first")
        self._attention.begin(batch)
        return self._run(
            torch.from_numpy(ids).long(),
            torch.from_numpy(batch.positions).long(),
            torch.from_numpy(last).long(),
            self._attention,
        )


def _draw_like(logits: torch.Tensor, sampling: Sampling) -> None:
    """Draw for rows that are made up."""
    draw_all(logits, [Draw(sampling, np.zeros(1, np.int32), 1)] * len(logits))


def make_attention(name: str, pool: KvPool) -> Attention:
    """The configured implementation on a CPU; `auto` is the fastest that there is."""
    if name in ("flash", "triton"):
        raise ValueError(f"worker.attention = {name!r} needs a CUDA device: use auto on the CPU")
    if name == "torch":
        from bros.workers.attention.torch_reference import TorchAttention

        return TorchAttention(pool)
    from bros.workers.attention.numba_paged import NumbaAttention

    return NumbaAttention(pool)
