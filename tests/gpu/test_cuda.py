"""The CUDA path on a real device: `pytest -m gpu`. Needs torch with CUDA, triton, no network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bros.brosd.config import load
from bros.brosd.protocol.wire import Sampling
from bros.kv import CopyKind
from bros.workers.executor.executor import Executor
from bros.workers.factory import cuda_executor
from bros.workers.sampling.sampler import Draw, draw_all
from device_attention import ROWS, error_against_torch, run_family
from tiny import FAMILIES, make_checkpoint

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("kind", ["triton", "flash"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 1e-5), (torch.bfloat16, 1e-2), (torch.float16, 2e-3)],
)
@pytest.mark.parametrize(
    "sizes", [(2, 3, 64, 16), (1, 7, 80, 16), (8, 4, 128, 16), (4, 1, 256, 256)], ids=str
)
def test_kernels_agree_with_torch(
    sizes: tuple[int, int, int, int], dtype: torch.dtype, tolerance: float, kind: str, rows: str
) -> None:
    from bros.workers.attention.flash import FlashAttention, flash_obstacle
    from bros.workers.attention.triton_paged import TritonAttention

    if kind == "flash" and (obstacle := flash_obstacle(dtype, sizes[2])):
        pytest.skip(obstacle)
    make = FlashAttention if kind == "flash" else TritonAttention
    error = error_against_torch(make, kind == "flash", ROWS[rows], dtype, sizes, "cuda")
    assert error < tolerance


@pytest.mark.parametrize("graphs", [True, False], ids=["graphs", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_families_on_cuda(family: str, graphs: bool, tmp_path: Path) -> None:
    """Tokens are those of transformers, with chunks, preemption, and copies to the host."""
    from bros.workers.executor.cuda_runner import CudaRunner

    def prepare(executor: Executor) -> None:
        executor.warm_up()
        assert isinstance(executor.runner, CudaRunner)
        assert executor.runner.has_graphs == graphs

    settings = [f"worker.cuda_graphs={str(graphs).lower()}"]
    runner = run_family(family, tmp_path, "cuda:0", settings, prepare)
    assert runner.allocator.counters.restored_blocks > 0


def test_copies_keep_every_byte() -> None:
    """Blocks are saved, overwritten at once, restored and moved; there are more than stages."""
    from bros.workers.attention.device_pool import DevicePool
    from bros.workers.executor.cuda_checkpoints import NUM_STAGES, CudaCheckpointCopier

    blocks = 3 * NUM_STAGES
    pool = DevicePool((4, 2 * blocks, 16, 2, 64), torch.bfloat16, "cuda")
    checkpoints = CudaCheckpointCopier(pool, blocks)
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


def test_draws_are_those_of_the_cpu() -> None:
    """Rows of all kinds are drawn side by side; one needs more than the shortlist."""
    kinds: list[dict[str, Any]] = [
        {"temperature": 0.0},
        {},
        {"temperature": 0.7, "top_k": 20, "top_p": 0.8},
        {"temperature": 2.0, "top_p": 0.95},
        {"min_p": 0.02, "repetition_penalty": 1.3, "frequency_penalty": 0.5},
    ]
    draws = [
        Draw(Sampling(seed=row, **kinds[row % len(kinds)]), np.arange(row + 1, dtype=np.int32), 1)
        for row in range(60)
    ]
    logits = 3 * torch.randn(60, 50_000, generator=torch.Generator().manual_seed(3))
    found = draw_all(logits.cuda(), draws)
    assert found.tokens == draw_all(logits, draws).tokens


def test_the_pool_takes_what_is_left(tmp_path: Path) -> None:
    folder = make_checkpoint("llama", tmp_path)
    half = load(overrides=["worker.gpu_memory_utilization=0.5"], environ={})
    executor = cuda_executor(folder, half)
    _, total = torch.cuda.mem_get_info()
    pool_bytes = executor.num_blocks * half.kv.block_size * executor.kv_bytes_per_token
    assert 0 < pool_bytes < total / 2
    tiny = load(overrides=["worker.gpu_memory_utilization=0.0001"], environ={})
    with pytest.raises(ValueError, match="does not fit"):
        cuda_executor(folder, tiny)
