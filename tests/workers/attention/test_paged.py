"""The fast attention and its pool agree with the plain ones, over any ragged batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bros.workers.attention.interface import Attention, AttentionBatch, KvPool
from bros.workers.attention.numba_paged import NumbaAttention
from bros.workers.attention.tasks import SEGMENT
from bros.workers.attention.torch_reference import TorchAttention

NUM_BLOCKS, KV_HEADS, GROUP, HEAD_DIM = 40, 2, 3, 32
SCALE = HEAD_DIM**-0.5


def make_pools(block_size: int, dtype: torch.dtype) -> tuple[KvPool, KvPool]:
    """Two pools with the same past in them."""
    pools = [KvPool(1, NUM_BLOCKS, block_size, KV_HEADS, HEAD_DIM, dtype) for _ in range(2)]
    generator = torch.Generator().manual_seed(0)
    for tensor, twin in ((pools[0].keys, pools[1].keys), (pools[0].values, pools[1].values)):
        tensor[0].copy_(torch.randn(tensor[0].shape, generator=generator))
        twin[0].copy_(tensor[0])
    return pools[0], pools[1]


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


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("block_size", [4, 16])
@given(
    rows=st.lists(
        st.tuples(st.integers(0, 30), st.integers(1, 40), st.booleans()), min_size=1, max_size=5
    )
)
@settings(max_examples=25, deadline=None)
def test_numba_agrees_with_torch(
    dtype: torch.dtype, tolerance: float, block_size: int, rows: list[tuple[int, int, bool]]
) -> None:
    while sum(-(-(start + count) // block_size) for start, count, _ in rows) > NUM_BLOCKS:
        rows.pop()
    if rows:
        compare(rows, dtype, tolerance, block_size)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize(
    "rows",
    [
        [(560, 1, True)],
        [(SEGMENT - 3, 20, False)],
        [(0, 600, True)],
        [(520, 2, False), (3, 9, True), (0, 1, False)],
    ],
    ids=str,
)
def test_segments_of_long_rows_are_merged(
    dtype: torch.dtype, tolerance: float, rows: list[tuple[int, int, bool]]
) -> None:
    compare(rows, dtype, tolerance, block_size=16)


def compare(
    rows: list[tuple[int, int, bool]], dtype: torch.dtype, tolerance: float, block_size: int
) -> None:
    """Compare the fast attention and the plain one over the same batch."""
    batch = make_batch(rows, block_size)
    queries = int(batch.counts.sum())
    generator = torch.Generator().manual_seed(queries)
    q = torch.randn(queries, KV_HEADS * GROUP, HEAD_DIM, generator=generator).to(dtype)
    k, v = torch.randn(2, queries, KV_HEADS, HEAD_DIM, generator=generator).to(dtype)
    fast_pool, plain_pool = make_pools(block_size, dtype)
    fast, plain = NumbaAttention(fast_pool), TorchAttention(plain_pool)
    for attention in (fast, plain):
        attention.begin(batch)
    torch.testing.assert_close(
        fast(0, q, k, v, SCALE), plain(0, q, k, v, SCALE), atol=tolerance, rtol=tolerance
    )
    assert fast_pool.keys[0].equal(plain_pool.keys[0])
    assert fast_pool.values[0].equal(plain_pool.values[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("block_size", "head_dim", "group"), [(1, 80, 1), (6, 36, 4), (16, 64, 8)])
def test_slices_of_one_tensor_of_any_shape(
    dtype: torch.dtype, block_size: int, head_dim: int, group: int
) -> None:
    """Q, K and V may be parts of a fused projection; sizes need not divide by unrolled loops."""
    batch = make_batch([(9, 1, True), (3, 5, False), (0, 18, True)], block_size)
    heads = KV_HEADS * group
    generator = torch.Generator().manual_seed(2)
    qkv = torch.randn(24, heads + 2 * KV_HEADS, head_dim, generator=generator).to(dtype)
    q, k, v = qkv.split((heads, KV_HEADS, KV_HEADS), dim=1)
    pools = [KvPool(1, NUM_BLOCKS, block_size, KV_HEADS, head_dim, dtype) for _ in range(2)]
    attentions: list[Attention] = [NumbaAttention(pools[0]), TorchAttention(pools[1])]
    outputs = []
    for attention in attentions:
        attention.begin(batch)
        outputs.append(attention(0, q, k, v, head_dim**-0.5))
    tolerance = 1e-2 if dtype is torch.bfloat16 else 2e-5
    torch.testing.assert_close(outputs[0], outputs[1], atol=tolerance, rtol=tolerance)


def test_both_directions_see_the_same_sequence() -> None:
    """A sequence stored from the right gives what it gives stored from the left."""
    outputs = []
    for reverse in (False, True):
        torch.manual_seed(5)
        pool = KvPool(1, NUM_BLOCKS, 16, KV_HEADS, HEAD_DIM, torch.float32)
        attention = NumbaAttention(pool)
        for start, count in ((0, 21), (21, 3), (24, 1)):
            attention.begin(make_batch([(start, count, reverse)], 16))
            q = torch.randn(count, KV_HEADS * GROUP, HEAD_DIM)
            k, v = torch.randn(2, count, KV_HEADS, HEAD_DIM)
            outputs.append(attention(0, q, k, v, SCALE))
    for left, right in zip(outputs[:3], outputs[3:], strict=True):
        torch.testing.assert_close(left, right, atol=1e-5, rtol=1e-5)


FIRST_CALL = """
import numpy as np, torch
from bros.workers.attention.interface import AttentionBatch, KvPool
from bros.workers.attention.numba_paged import NumbaAttention
attention = NumbaAttention(KvPool(1, 2, 16, 1, 32, torch.bfloat16))
ones, zero = np.ones(1, np.int32), np.zeros(1, np.int32)
attention.begin(AttentionBatch(zero, ones, zero[None], zero.astype(bool), 16))
q = torch.zeros(1, 2, 32, dtype=torch.bfloat16)
attention(0, q, q[:, :1], q[:, :1], 1.0)
"""


def test_a_second_process_finds_the_compiled_kernels(tmp_path: Path) -> None:
    """A kernel is compiled once, not at every start, and the cache does not grow."""
    environ = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    compiled = []
    for _ in range(2):
        subprocess.run([sys.executable, "-c", FIRST_CALL], env=environ, check=True)
        compiled.append(sorted(tmp_path.rglob("*.nbc")))
    assert compiled[0]
    assert compiled[1] == compiled[0]
