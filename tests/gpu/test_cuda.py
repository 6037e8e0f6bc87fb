"""The CUDA path on a real device: `pytest -m gpu`. Needs torch with CUDA, triton, no network."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from bros.brosd.config import load
from bros.kv import CopyKind, Klass
from bros.kv.invariants import check
from bros.workers.attention.interface import AttentionBatch, KvPool
from bros.workers.attention.torch_reference import TorchAttention
from rows import RowRunner
from tiny import FAMILIES, VOCABULARY, generate, make_checkpoint

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

NUM_BLOCKS = 120
ROWS = [
    [(0, 1, False)],
    [(700, 1, True)],
    [(130, 1, True), (7, 1, False), (20, 90, True), (0, 9, False), (5, 30, False)],
]


def make_batch(rows: list[tuple[int, int, bool]], block_size: int) -> AttentionBatch:
    """Rows of (start, count, reverse) over blocks in random order, none shared."""
    blocks = np.random.default_rng(1).permutation(NUM_BLOCKS).astype(np.int32)
    starts, counts, reverse = (np.array(column) for column in zip(*rows, strict=True))
    needed = -(-(starts + counts) // block_size)
    tables = np.zeros((len(rows), needed.max()), np.int32)
    for row, (last, length) in enumerate(zip(np.cumsum(needed), needed, strict=True)):
        tables[row, :length] = blocks[last - length : last]
    return AttentionBatch(
        starts.astype(np.int32), counts.astype(np.int32), tables, reverse, block_size
    )


@pytest.mark.parametrize("rows", ROWS, ids=["first", "split", "mixed"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 1e-5), (torch.bfloat16, 1e-2), (torch.float16, 2e-3)],
)
@pytest.mark.parametrize(
    ("kv_heads", "group", "head_dim", "block_size"),
    [(2, 3, 64, 16), (1, 7, 80, 16), (8, 4, 128, 16), (4, 1, 256, 256)],
)
def test_triton_agrees_with_torch(
    kv_heads: int,
    group: int,
    head_dim: int,
    block_size: int,
    dtype: torch.dtype,
    tolerance: float,
    rows: list[tuple[int, int, bool]],
) -> None:
    """Relative error, and no slot but the batch's own is written."""
    from bros.workers.attention.device_batch import Grid, to_device
    from bros.workers.attention.device_pool import DevicePool
    from bros.workers.attention.triton_paged import TritonAttention

    shape = (1, NUM_BLOCKS, block_size, kv_heads, head_dim)
    plain, device = KvPool(*shape, dtype), DevicePool(shape, dtype, "cuda")
    past = torch.randn(2, NUM_BLOCKS, block_size, kv_heads, head_dim).to(dtype)
    device.keys[0, :NUM_BLOCKS], device.values[0, :NUM_BLOCKS] = past.cuda()
    plain.keys[0], plain.values[0] = past[0].permute(0, 2, 3, 1), past[1].permute(0, 2, 1, 3)
    batch = make_batch(rows, block_size)
    tokens = int(batch.counts.sum())
    q = torch.randn(tokens, kv_heads * group, head_dim).to(dtype)
    k, v = torch.randn(2, tokens, kv_heads, head_dim).to(dtype)
    reference = TorchAttention(plain)
    reference.begin(batch)
    wanted = reference(0, q, k, v, head_dim**-0.5).float()
    attention = TritonAttention(device)
    ids = np.zeros(tokens, np.int32)
    attention.prepare(to_device(ids, batch, Grid(group, kv_heads, 132), "cuda"))
    found = attention(0, q.cuda(), k.cuda(), v.cuda(), head_dim**-0.5).cpu().float()
    assert (found - wanted).norm() / wanted.norm() < tolerance
    assert device.keys[0, :NUM_BLOCKS].permute(0, 2, 3, 1).cpu().equal(plain.keys[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_families_on_cuda(family: str, tmp_path: Path) -> None:
    """Token for token, with prompts in chunks, preemption, and copies to the host and back."""
    from bros.workers.cuda import CudaExecutor

    folder = make_checkpoint(family, tmp_path / "model")
    rng = random.Random(4)
    prompts = [[rng.randrange(VOCABULARY) for _ in range(length)] for length in (3, 16, 45, 70)]
    expected = [generate(folder, prompt, 20) for prompt in prompts]
    config = load(overrides=["model.dtype=float32", "kv.num_blocks=40"], environ={})
    runner = RowRunner(CudaExecutor(folder, config), config, tmp_path / "table")
    runner.allocator.costs.copy_s_per_block = 0.0
    runner.allocator.costs.compute_s_per_token = 1.0
    rows = [runner.open(Klass(i % 2), prompt) for i, prompt in enumerate(prompts)]
    turns = 0
    while any(len(runner.tokens[r]) < len(e) for r, e in zip(rows, expected, strict=True)):
        pending = [
            row
            for row, want in zip(rows, expected, strict=True)
            if len(runner.tokens[row]) < len(want)
        ]
        runner.step([(row, min(19, runner.pending(row))) for row in pending])
        turns += 1
        if turns % 6 == 0:
            runner.allocator.give_up(rows[1] if turns % 12 else rows[3])
    assert [runner.tokens[row] for row in rows] == expected
    assert runner.allocator.counters.restored_blocks > 0
    check(runner.allocator)


def test_copies_keep_every_byte() -> None:
    """Saved, overwritten at once, restored, moved: also more blocks than there are stages."""
    from bros.workers.attention.device_pool import DevicePool
    from bros.workers.streams import NUM_STAGES, StreamedCheckpoints

    blocks = 3 * NUM_STAGES
    pool = DevicePool((4, 2 * blocks, 16, 2, 64), torch.bfloat16, "cuda")
    checkpoints = StreamedCheckpoints(pool, blocks)
    pool.keys.normal_()
    pool.values.normal_()
    before = pool.keys[:, :blocks].clone(), pool.values[:, :blocks].clone()
    checkpoints.run(np.array([(CopyKind.SAVE, b, b, 16) for b in range(blocks)]))
    pool.keys.zero_()
    pool.values.zero_()
    checkpoints.run(np.array([(CopyKind.RESTORE, b, blocks + b, 5) for b in range(blocks)]))
    checkpoints.run(np.array([(CopyKind.MOVE, blocks + b, b, 5) for b in range(blocks)]))
    for found, wanted in zip((pool.keys, pool.values), before, strict=True):
        assert found[:, :blocks, 11:].equal(wanted[:, :, 11:])
        assert not found[:, :blocks, :11].any()


def test_the_pool_takes_what_is_left(tmp_path: Path) -> None:
    from bros.workers.cuda import CudaExecutor

    folder = make_checkpoint("llama", tmp_path)
    half = load(overrides=["worker.gpu_memory_utilization=0.5"], environ={})
    executor = CudaExecutor(folder, half)
    _, total = torch.cuda.mem_get_info()
    pool_bytes = executor.num_blocks * half.kv.block_size * executor.kv_bytes_per_token
    assert 0 < pool_bytes < total / 2
    tiny = load(overrides=["worker.gpu_memory_utilization=0.0001"], environ={})
    with pytest.raises(ValueError, match="does not fit"):
        CudaExecutor(folder, tiny)
