"""The CUDA backend on a CPU, in Triton's interpreter. On a device: tests/gpu."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

if torch.cuda.is_available():
    pytest.skip("tests/gpu tries the same on the device", allow_module_level=True)
pytest.importorskip("triton")

from bros.workers.attention.flash import FlashAttention
from bros.workers.attention.triton_paged import TritonAttention
from bros.workers.executor.cuda_runner import CudaRunner
from bros.workers.executor.executor import Executor
from device_attention import ROWS, error_against_torch, run_family, sdpa_varlen

KINDS = [(TritonAttention, False), (partial(FlashAttention, varlen=sdpa_varlen), True)]
SIZES = [(2, 3, 64, 16), (1, 7, 80, 16)]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 2e-3)])
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize(("make", "apart"), KINDS, ids=["triton", "flash"])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_kernels_agree_with_torch(
    rows: str,
    make: Any,
    apart: bool,
    sizes: tuple[int, int, int, int],
    dtype: torch.dtype,
    tolerance: float,
) -> None:
    """bfloat16 is left out: the interpreter multiplies it wrongly."""
    error = error_against_torch(make, apart, ROWS[rows], dtype, sizes, "cpu")
    assert error < tolerance


@pytest.mark.parametrize("family", ["qwen2", "gemma3_text"])
def test_padded_decodes_give_the_same_tokens(family: str, tmp_path: Path) -> None:
    """Instead of replaying graphs, run their work again, in their padded batches."""

    def prepare(executor: Executor) -> None:
        assert isinstance(executor.runner, CudaRunner)
        executor.runner.capture_graphs(lambda work: work)
        assert executor.runner.has_graphs

    runner = run_family(family, tmp_path, "cpu", [], prepare, lengths=(3, 25), num_tokens=5)
    assert runner.allocator.counters.restored_blocks > 0
