"""Checks of the attention and the executor for CUDA, on a device or in Triton's interpreter."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bros.brosd.config import load
from bros.kv import Klass
from bros.kv.invariants import check
from bros.workers.attention.device_batch import Grid, to_device
from bros.workers.attention.device_pool import DevicePool
from bros.workers.attention.interface import AttentionBatch, KvPool
from bros.workers.attention.torch_reference import TorchAttention
from bros.workers.executor.executor import Executor
from bros.workers.factory import cuda_executor
from rows import RowRunner
from tiny import VOCABULARY, generate, make_checkpoint

NUM_BLOCKS = 120
ROWS = {  # of (start, count, reverse)
    "first": [(0, 1, False)],
    "split": [(700, 1, True)],
    "mixed": [(130, 1, True), (7, 1, False), (20, 90, True), (0, 40, False), (5, 30, False)],
}


def make_batch(rows: list[tuple[int, int, bool]], block_size: int) -> AttentionBatch:
    """Make rows of (start, count, reverse) over blocks in random order, none of them shared."""
    blocks = np.random.default_rng(1).permutation(NUM_BLOCKS).astype(np.int32)
    starts, counts, reverse = (np.array(column) for column in zip(*rows, strict=True))
    needed = -(-(starts + counts) // block_size)
    tables = np.zeros((len(rows), needed.max()), np.int32)
    for row, (last, length) in enumerate(zip(np.cumsum(needed), needed, strict=True)):
        tables[row, :length] = blocks[last - length : last]
    return AttentionBatch(
        starts.astype(np.int32), counts.astype(np.int32), tables, reverse, block_size
    )


def error_against_torch(
    make: Callable[[DevicePool], Any],
    apart: bool,
    rows: list[tuple[int, int, bool]],
    dtype: torch.dtype,
    sizes: tuple[int, int, int, int],
    device: str,
) -> float:
    """Return the relative error of `make`'s attention; it may write the batch's own slots only.

    `sizes`: KV heads, query heads of each, head_dim, block size.
    """
    kv_heads, group, head_dim, block_size = sizes
    shape = (1, NUM_BLOCKS, block_size, kv_heads, head_dim)
    plain, pool = KvPool(*shape, dtype), DevicePool(shape, dtype, device)
    past = torch.randn(2, NUM_BLOCKS, block_size, kv_heads, head_dim).to(dtype)
    pool.keys[0, :NUM_BLOCKS], pool.values[0, :NUM_BLOCKS] = past.to(device)
    plain.keys[0], plain.values[0] = past[0].permute(0, 2, 3, 1), past[1].permute(0, 2, 1, 3)
    batch = make_batch(rows, block_size)
    tokens = int(batch.counts.sum())
    q = torch.randn(tokens, kv_heads * group, head_dim).to(dtype)
    k, v = torch.randn(2, tokens, kv_heads, head_dim).to(dtype)
    reference = TorchAttention(plain)
    reference.begin(batch)
    wanted = reference(0, q, k, v, head_dim**-0.5).float()
    attention = make(pool)
    grid = Grid(group, kv_heads, processors=132, apart=apart)
    attention.prepare(to_device(np.zeros(tokens, np.int32), batch, grid, device))
    found = attention(0, q.to(device), k.to(device), v.to(device), head_dim**-0.5).cpu().float()
    assert pool.keys[0, :NUM_BLOCKS].permute(0, 2, 3, 1).cpu().equal(plain.keys[0])
    return float((found - wanted).norm() / wanted.norm())


def run_family(
    family: str,
    folder: Path,
    device: str,
    settings: list[str],
    prepare: Callable[[Executor], None],
    lengths: tuple[int, ...] = (3, 16, 45, 70),
    num_tokens: int = 20,
) -> RowRunner:
    """Check that tokens are those of transformers, with prompts in chunks and rows that lose KV."""
    model = make_checkpoint(family, folder / "model")
    rng = random.Random(4)
    prompts = [[rng.randrange(VOCABULARY) for _ in range(length)] for length in lengths]
    expected = [generate(model, prompt, num_tokens) for prompt in prompts]
    base = ["model.dtype=float32", "kv.num_blocks=40", "scheduler.max_sequences=8"]
    config = load(overrides=[*base, *settings], environ={})
    executor = cuda_executor(model, config, device=device)
    runner = RowRunner(executor, config, folder / "table")
    prepare(executor)
    runner.allocator.costs.copy_s_per_block = 0.0
    runner.allocator.costs.compute_s_per_token = 1.0
    rows = [runner.open(Klass(i % 2), prompt) for i, prompt in enumerate(prompts)]
    wanted = dict(zip(rows, expected, strict=True))
    turns = 0
    while pending := [row for row in rows if len(runner.tokens[row]) < len(wanted[row])]:
        runner.step([(row, min(19, runner.pending(row))) for row in pending])
        turns += 1
        if turns % (3 if device == "cpu" else 6) == 0:  # the interpreter runs few turns
            runner.allocator.give_up(rows[1] if turns % 12 else rows[-1])
    assert runner.tokens == wanted
    check(runner.allocator)
    return runner


def sdpa_varlen(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float,
    window_size: tuple[int, int],
    enable_gqa: bool,
    return_aux: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Do what `varlen_attn` of torch does, on CPUs: outputs, and sums as (heads, tokens)."""
    assert cu_seq_q is cu_seq_k
    assert max_q == max_k == int(cu_seq_q.diff().max())
    assert window_size == (-1, 0)
    assert enable_gqa
    assert return_aux.lse
    group = q.shape[1] // k.shape[1]
    outs, sums = [], []
    for first, end in zip(cu_seq_q[:-1].tolist(), cu_seq_q[1:].tolist(), strict=True):
        keys = k[first:end].repeat_interleave(group, 1).float()
        values = v[first:end].repeat_interleave(group, 1).float()
        scores = torch.einsum("qhd,khd->hqk", q[first:end].float(), keys) * scale
        scores = scores.masked_fill(torch.ones(scores.shape[1:]).triu(1).bool(), -torch.inf)
        sums.append(scores.logsumexp(-1))
        outs.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1), values))
    return torch.cat(outs).to(q.dtype), torch.cat(sums, 1)
