"""Attention of one long prompt chunk: gathers the row's blocks and calls torch's fused kernel.

The copy is small beside the product: each gathered key serves every query of the chunk.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention

from bros.workers.attention.interface import AttentionBatch


class Chunk:
    """What all layers share about the chunk of row `row`."""

    def __init__(self, batch: AttentionBatch, row: int) -> None:
        start, count = int(batch.starts[row]), int(batch.counts[row])
        first, size = int(batch.offsets[row]), batch.block_size
        num_blocks = -(-(start + count) // size)
        columns = np.arange(num_blocks * size)
        if batch.reverse[row]:  # the order of keys is free, only their positions matter
            columns = columns + size - 1 - 2 * (columns % size)
        self._queries = slice(first, first + count)
        self._blocks = torch.from_numpy(batch.tables[row, :num_blocks]).long()
        self._visible = torch.from_numpy(columns <= np.arange(start, start + count)[:, None])

    def attend(
        self,
        q: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        scale: float,
        out: torch.Tensor,
    ) -> None:
        """Write the chunk's rows of `out`; shapes as in `Attention` and `KvPool`."""
        _, kv_heads, head_dim, _ = keys.shape
        k = keys[self._blocks].permute(1, 0, 3, 2).reshape(1, kv_heads, -1, head_dim)
        v = values[self._blocks].permute(1, 0, 2, 3).reshape(1, kv_heads, -1, head_dim)
        outputs = scaled_dot_product_attention(
            q[self._queries].transpose(0, 1)[None],
            k,
            v,
            attn_mask=self._visible[None, None],
            scale=scale,
            enable_gqa=True,
        )
        out[self._queries] = outputs[0].transpose(0, 1)
