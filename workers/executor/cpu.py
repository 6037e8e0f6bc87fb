"""The backend of a CPU: our own layers where we have them, attention in place, pools in RAM."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from bros.brosd.config import Config
from bros.kv import TableGeometry
from bros.workers.attention.interface import Attention, AttentionBatch, KvPool
from bros.workers.executor.checkpoints import CheckpointCopier, Copied
from bros.workers.executor.forward import Forward, make_forward, packed
from bros.workers.executor.load import load_model
from bros.workers.models.shape import ModelShape
from bros.workers.tensor_parallel import ALONE, Ranks


class CpuBackend:
    """See `Backend`. The pool has `kv.num_blocks` blocks, or as many as `kv.pool_bytes` hold."""

    def __init__(self, folder: Path, config: Config, ranks: Ranks = ALONE) -> None:
        """Load the model. Raise UnsupportedModel if our attention would compute it wrongly."""
        self._config = config
        model, self._loaded = load_model(folder, config, ranks)
        self._forward = _make_forward(model, config.worker.quantize, ranks)

    @property
    def shape(self) -> ModelShape:
        return self._loaded.model

    @property
    def kv_bytes_per_token(self) -> int:
        return self._loaded.kv_bytes_per_token

    @property
    def num_blocks(self) -> int:
        kv = self._config.kv
        return kv.num_blocks or kv.pool_bytes // (self.kv_bytes_per_token * kv.block_size)

    def attach(self, geometry: TableGeometry) -> CpuRunner:
        pool = KvPool(
            self.shape.num_layers,
            geometry.num_blocks,
            geometry.block_size,
            self._loaded.kv_heads,
            self.shape.head_dim,
            self._loaded.dtype,
        )
        attention = make_attention(self._config.worker.attention, pool)
        return CpuRunner(self._forward, attention, CheckpointCopier(pool, geometry.host_slots))


class CpuRunner:
    """See `Runner`."""

    def __init__(
        self, forward: Forward, attention: Attention, checkpoints: CheckpointCopier
    ) -> None:
        self._forward = forward
        self._attention = attention
        self._checkpoints = checkpoints

    @torch.inference_mode()
    def forward(self, ids: np.ndarray, batch: AttentionBatch, last: np.ndarray) -> torch.Tensor:
        self._attention.begin(batch)
        return self._forward(
            torch.from_numpy(ids).long(),
            torch.from_numpy(batch.positions).long(),
            torch.from_numpy(last).long(),
            self._attention,
        )

    def copy(self, log: np.ndarray) -> None:
        self._checkpoints.run(log)

    def copied(self) -> Copied:
        return self._checkpoints.copied()

    def finish_warm_up(self) -> None:
        """Nothing is left to prepare on a CPU."""


def _make_forward(model: torch.nn.Module, quantize: str, ranks: Ranks) -> Forward:
    if ranks.size == 1:
        return make_forward(model, quantize)
    if quantize != "none":
        raise ValueError("worker.quantize is not supported with worker.tensor_parallel")
    return packed(model)  # our own layers do not add up over ranks


def make_attention(name: str, pool: KvPool) -> Attention:
    """Return the configured implementation; `auto` is the fastest.

    Raise ValueError if it needs a CUDA device.
    """
    if name in ("flash", "triton"):
        raise ValueError(f"worker.attention = {name!r} needs a CUDA device: use auto on the CPU")
    if name == "torch":
        from bros.workers.attention.torch_reference import TorchAttention

        return TorchAttention(pool)
    from bros.workers.attention.numba_paged import NumbaAttention

    return NumbaAttention(pool)
