"""Attention on CPU: a Numba kernel that reads the paged pool in place, in bfloat16 or float32.

For decodes and short chunks; long chunks go to `chunks`, which is faster for them. Work is cut
into tiles of up to `TILE` queries of one row, times KV heads. A tile walks over its row's blocks
once with an online softmax; each key is converted once for all queries and for all heads of its
group. bfloat16 is read as uint16.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from numba import njit, prange

from bros.workers.attention.chunks import Chunk
from bros.workers.attention.interface import AttentionBatch, KvPool
from bros.workers.bits import bits_of, exp, load

TILE = 8
CHUNK_MIN = 16  # queries of a row from which gathering its keys pays (measured)
LOWEST = np.float32(-1e30)  # finite: the difference of two of them is 0, not NaN


@njit(cache=True)
def _store(k: Any, v: Any, keys: Any, values: Any, blocks: Any, slots: Any) -> None:
    """Write new keys and values, as bits, to their places."""
    for i in range(len(blocks)):
        for head in range(k.shape[1]):
            for d in range(k.shape[2]):
                keys[blocks[i], head, d, slots[i]] = k[i, head, d]
                values[blocks[i], head, slots[i], d] = v[i, head, d]


@cache
def _make_kernel(B: int, D: int, G: int) -> Callable[..., None]:  # noqa: C901
    """The kernel for one block size, head size and group size: as constants, loops unroll.

    One loop nest, kept in one piece: calls in it would have to pass its scratch arrays around.
    Only numbers may be free in it: Numba's disk cache finds a kernel again by their values, and a
    function among them has another value in each process.
    """

    @njit(parallel=True, fastmath=True, cache=True, error_model="numpy")
    def kernel(  # noqa: C901
        q: Any,  # (queries, heads, D)
        keys: Any,  # (blocks, kv_heads, D, B)
        values: Any,  # (blocks, kv_heads, B, D)
        tables: Any,  # (rows, blocks)
        reverse: Any,  # (rows,)
        tiles: Any,  # (tiles, 4): row, first query, number of queries, position of the first
        scale: Any,
        out: Any,  # (queries, heads, D), float32
    ) -> None:
        kv_heads = keys.shape[1]
        for task in prange(len(tiles) * kv_heads):
            row, first, count, start = tiles[task // kv_heads]
            head = task % kv_heads
            qs = np.empty((TILE * G, D), np.float32)
            acc = np.zeros((TILE * G, D), np.float32)
            highest = np.full(TILE * G, LOWEST, np.float32)
            total = np.zeros(TILE * G, np.float32)
            kb = np.empty((D, B), np.float32)
            vb = np.empty((B, D), np.float32)
            s = np.empty(B, np.float32)
            for r in range(count * G):
                for d in range(D):
                    qs[r, d] = load(q[first + r // G, head * G + r % G, d]) * scale
            for j in range((start + count - 1) // B + 1):
                block = tables[row, j]
                for d in range(D):
                    for slot in range(B):
                        kb[d, slot] = load(keys[block, head, d, slot])
                for slot in range(B):
                    for d in range(D):
                        vb[slot, d] = load(values[block, head, slot, d])
                for r in range(count * G):
                    valid = min(B, start + r // G - j * B + 1)
                    if valid <= 0:
                        continue
                    s[:] = 0
                    for d in range(D):
                        for slot in range(B):
                            s[slot] += qs[r, d] * kb[d, slot]
                    if valid < B:  # the newest block: slots beyond the query hold other tokens
                        if reverse[row]:
                            s[: B - valid] = LOWEST
                        else:
                            s[valid:] = LOWEST
                    top = highest[r]
                    for slot in range(B):
                        top = max(top, s[slot])
                    if top > highest[r]:
                        shrink = exp(highest[r] - top)
                        total[r] *= shrink
                        for d in range(D):
                            acc[r, d] *= shrink
                        highest[r] = top
                    for slot in range(B):
                        s[slot] = exp(s[slot] - top)
                    for slot in range(B):
                        total[r] += s[slot]
                        for d in range(D):
                            acc[r, d] += s[slot] * vb[slot, d]
            for r in range(count * G):
                share = np.float32(1) / total[r]
                for d in range(D):
                    out[first + r // G, head * G + r % G, d] = acc[r, d] * share

    compiled: Callable[..., None] = kernel
    return compiled


class NumbaAttention:
    """See `Attention`. Kernels compile at their first call and are cached on disk."""

    def __init__(self, pool: KvPool) -> None:
        self._pool = pool
        self._keys = [bits_of(keys) for keys in pool.keys]
        self._values = [bits_of(values) for values in pool.values]

    def begin(self, batch: AttentionBatch) -> None:
        self._batch = batch
        self._tiles = tiles_of(batch)
        self._chunks = [
            Chunk(batch, row) for row in range(len(batch.counts)) if batch.counts[row] >= CHUNK_MIN
        ]
        self._blocks, self._slots = batch.places(batch.positions, batch.row_of_query)

    def __call__(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float
    ) -> torch.Tensor:
        keys, values = self._keys[layer], self._values[layer]
        _store(bits_of(k), bits_of(v), keys, values, self._blocks, self._slots)
        out = torch.empty_like(q)
        if len(self._tiles):
            _, heads, head_dim = q.shape
            kernel = _make_kernel(keys.shape[3], head_dim, heads // k.shape[1])
            single = torch.empty(q.shape, dtype=torch.float32)
            kernel(
                bits_of(q),
                keys,
                values,
                self._batch.tables,
                self._batch.reverse,
                self._tiles,
                np.float32(scale),
                single.numpy(),
            )
            out.copy_(single)
        for chunk in self._chunks:
            chunk.attend(q, self._pool.keys[layer], self._pool.values[layer], scale, out)
        return out


def tiles_of(batch: AttentionBatch) -> np.ndarray:
    """Cut the queries of short rows into tiles: (tiles, 4) of row, first query, count, position."""
    tiles = [
        (row, offset + at, min(TILE, count - at), start + at)
        for row, (offset, start, count) in enumerate(
            zip(batch.offsets[:-1], batch.starts, batch.counts, strict=True)
        )
        if count < CHUNK_MIN
        for at in range(0, count, TILE)
    ]
    return np.array(tiles, dtype=np.int32).reshape(-1, 4)
