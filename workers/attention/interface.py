"""Attention's interface: the batch of one iteration, the KV pool, and what implementations do."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

Int32 = npt.NDArray[np.int32]


@dataclass(frozen=True)
class AttentionBatch:
    """The rows of one iteration: decodes and prompt chunks of both classes, packed.

    Row `i` computes tokens `[starts[i], starts[i] + counts[i])` of its sequence, which are queries
    `[offsets[i], offsets[i + 1])` of the batch. `tables[i]` lists its blocks. `reverse[i]` says
    that it fills blocks from the right, as BE does.
    """

    starts: Int32  # (rows,)
    counts: Int32  # (rows,)
    tables: Int32  # (rows, blocks)
    reverse: npt.NDArray[np.bool_]  # (rows,)
    block_size: int

    @cached_property
    def offsets(self) -> Int32:
        """First query of each row, then the number of all queries: (rows + 1,)."""
        return np.concatenate(([0], np.cumsum(self.counts))).astype(np.int32)

    @cached_property
    def row_of_query(self) -> Int32:
        """Row of each query: (queries,)."""
        return np.repeat(np.arange(len(self.counts), dtype=np.int32), self.counts)

    @cached_property
    def positions(self) -> Int32:
        """Position of each query in its sequence: (queries,)."""
        within = np.arange(int(self.counts.sum()), dtype=np.int32)
        return within + np.repeat(self.starts - self.offsets[:-1], self.counts)

    def places(self, positions: Int32, rows: Int32) -> tuple[Int32, Int32]:
        """Return block and slot of the token at each of `positions` in `rows`: two (n,) arrays."""
        offset = positions % self.block_size
        slot = np.where(self.reverse[rows], self.block_size - 1 - offset, offset)
        return self.tables[rows, positions // self.block_size], slot.astype(np.int32)


class KvPool:
    """Keys and values of all layers, in blocks.

    `keys`: (layers, blocks, kv_heads, head_dim, block_size), slots innermost, so that the scores
    of a whole block are one vector. `values`: (layers, blocks, kv_heads, block_size, head_dim).
    """

    def __init__(
        self,
        num_layers: int,
        num_blocks: int,
        block_size: int,
        kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
    ) -> None:
        self.block_size = block_size
        key_shape = (num_layers, num_blocks, kv_heads, head_dim, block_size)
        value_shape = (num_layers, num_blocks, kv_heads, block_size, head_dim)
        # Zeros, not empty: a slot that was never written must not hold a NaN, which would survive
        # being masked.
        self.keys = torch.zeros(key_shape, dtype=dtype)
        self.values = torch.zeros(value_shape, dtype=dtype)

    @staticmethod
    def by_slot(keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Views of `keys` and `values`, laid out as the pool's, in which slots are dimension 2."""
        return keys.movedim(-1, 2), values.movedim(-2, 2)

    @staticmethod
    def bytes_per_token(num_layers: int, kv_heads: int, head_dim: int, dtype: torch.dtype) -> int:
        """Return the bytes of one token's keys and values in all layers."""
        return 2 * num_layers * kv_heads * head_dim * dtype.itemsize


class Attention(Protocol):
    """Stores the new keys and values of a layer, then attends to all of each row's tokens."""

    def begin(self, batch: AttentionBatch) -> None:
        """Prepare what all layers of the next iteration share."""

    def __call__(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """Return outputs (queries, heads, head_dim) in q's dtype.

        `q`: (queries, heads, head_dim); `k`, `v`: (queries, kv_heads, head_dim), after rotary
        embedding. A query sees its own position and all before it.
        """
