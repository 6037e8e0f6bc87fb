"""Attention in plain torch, row by row: slow; tests compare the kernels with it."""

from __future__ import annotations

import numpy as np
import torch

from bros.workers.attention.interface import AttentionBatch, KvPool


class TorchAttention:
    """Gathers each row's keys and values in sequence order and calls torch's own attention."""

    def __init__(self, pool: KvPool) -> None:
        self._pool = pool
        self._batch: AttentionBatch | None = None

    def begin(self, batch: AttentionBatch) -> None:
        self._batch = batch

    def __call__(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float
    ) -> torch.Tensor:
        batch = self._batch
        if batch is None:
            raise RuntimeError("begin() first")
        keys, values = self._pool.keys[layer], self._pool.values[layer]
        blocks, slots = _places(batch, batch.positions, batch.row_of_query)
        keys[blocks, :, :, slots] = k
        values[blocks, :, slots] = v
        group = q.shape[1] // k.shape[1]
        out = torch.empty_like(q)
        for row, (start, count) in enumerate(zip(batch.starts, batch.counts, strict=True)):
            length = int(start + count)
            positions = np.arange(length, dtype=np.int32)
            blocks, slots = _places(batch, positions, np.full(length, row, dtype=np.int32))
            row_k = keys[blocks, :, :, slots].float().repeat_interleave(group, dim=1)
            row_v = values[blocks, :, slots].float().repeat_interleave(group, dim=1)
            first = int(batch.offsets[row])
            row_q = q[first : first + count].float()
            scores = torch.einsum("qhd,khd->hqk", row_q, row_k) * scale
            future = torch.arange(length) > torch.arange(int(start), length)[:, None]
            weights = scores.masked_fill(future, -torch.inf).softmax(dim=-1)
            out[first : first + count] = torch.einsum("hqk,khd->qhd", weights, row_v).to(q.dtype)
        return out


def _places(
    batch: AttentionBatch, positions: np.ndarray, rows: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor]:
    blocks, slots = batch.places(positions, rows)
    return torch.from_numpy(blocks).long(), torch.from_numpy(slots).long()
