"""Attention on CPU: a Numba kernel that reads the paged pool in place, in bfloat16 or float32.

One kernel for decodes and prompt chunks of both classes. Work is cut into tiles of up to `TILE`
queries of one row, times KV heads; a tile walks over its row's blocks once, with an online softmax
(`block_step`), while a block is in the cache. bfloat16 is read as uint16.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from numba import get_num_threads, njit, prange

from bros.workers.attention.block_step import LOWEST, block_step, prefetch
from bros.workers.attention.interface import AttentionBatch, KvPool
from bros.workers.bits import bits_of, load, narrow

TILE = 8
FEW = 16  # new tokens that one thread stores faster than several


@njit(cache=True, error_model="numpy")
def _store_token(k: Any, v: Any, keys: Any, values: Any, slot: Any) -> None:
    """One token's new keys and values, as bits, to its place in a block."""
    for head in range(k.shape[0]):
        for d in range(k.shape[1]):
            keys[head, d, slot] = k[head, d]
            values[head, slot, d] = v[head, d]


@njit(cache=True, error_model="numpy")
def _store_few(k: Any, v: Any, keys: Any, values: Any, places: Any) -> None:
    for i in range(places.shape[1]):
        block = places[0, i]
        _store_token(k[i], v[i], keys[block], values[block], places[1, i])


@njit(cache=True, parallel=True, error_model="numpy")
def _store_many(k: Any, v: Any, keys: Any, values: Any, places: Any) -> None:
    for i in prange(places.shape[1]):
        block = places[0, i]
        _store_token(k[i], v[i], keys[block], values[block], places[1, i])


@cache
def _make_kernel(B: int, D: int, G: int) -> Callable[..., None]:
    """The kernel for one block size, head size and group size: constants, so that loops unroll.

    Only numbers may be free in it: Numba's disk cache finds a kernel again by their values, and a
    function among them has another value in each process.
    """

    @njit(parallel=True, fastmath=True, cache=True, error_model="numpy")
    def kernel(
        q: Any,  # (queries, heads, D)
        keys: Any,  # (blocks, kv_heads, D, B)
        values: Any,  # (blocks, kv_heads, B, D)
        tables: Any,  # (rows, blocks)
        tiles: Any,  # (tiles, 5): row, first query, number of queries, its position, reversed
        scale: Any,
        out: Any,  # (queries, heads, D)
    ) -> None:
        kv_heads = keys.shape[1]
        for task in prange(len(tiles) * kv_heads):
            row, first, count, start, reverse = tiles[task // kv_heads]
            head = task % kv_heads
            qs = np.empty(TILE * G * D, np.float32)
            sums = np.zeros(TILE * G * D, np.float32)
            peaks = np.full(TILE * G, LOWEST, np.float32)
            totals = np.zeros(TILE * G, np.float32)
            weights = np.empty(G * B, np.float32)
            for r in range(count * G):
                for d in range(D):
                    qs[r * D + d] = load(q[first + r // G, head * G + r % G, d]) * scale
            for j in range((start + count - 1) // B + 1):
                at = (np.int64(tables[row, j]) * kv_heads + head) * (B * D)
                if (j + 1) * B < start + count:
                    ahead = (np.int64(tables[row, j + 1]) * kv_heads + head) * (B * D)
                    prefetch(B, D, keys, ahead)
                    prefetch(B, D, values, ahead)
                for query in range(max(0, j * B - start), count):
                    # In the newest block, slots beyond the query hold other tokens.
                    valid = min(B, start + query - j * B + 1)
                    low = B - valid if reverse else 0
                    r = query * G
                    block_step(
                        B,
                        D,
                        G,
                        (qs, r * D),
                        keys,
                        values,
                        at,
                        (low, low + valid),
                        weights,
                        (sums, r * D, peaks, r, totals, r),
                    )
            for r in range(count * G):
                share = np.float32(1) / totals[r]
                for d in range(D):
                    at = first + r // G, head * G + r % G, d
                    out[at] = narrow(sums[r * D + d] * share, out[at])

    compiled: Callable[..., None] = kernel
    return compiled


class NumbaAttention:
    """See `Attention`. Kernels compile at their first call and are cached on disk."""

    def __init__(self, pool: KvPool) -> None:
        self._keys = [bits_of(keys) for keys in pool.keys]
        self._values = [bits_of(values) for values in pool.values]

    def begin(self, batch: AttentionBatch) -> None:
        self._tables = np.ascontiguousarray(batch.tables)
        self._tiles = dealt(tiles_of(batch), get_num_threads())
        self._places = np.stack(batch.places(batch.positions, batch.row_of_query))

    def __call__(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float
    ) -> torch.Tensor:
        keys, values = self._keys[layer], self._values[layer]
        store = _store_few if self._places.shape[1] <= FEW else _store_many
        store(bits_of(k), bits_of(v), keys, values, self._places)
        _, heads, head_dim = q.shape
        kernel = _make_kernel(keys.shape[3], head_dim, heads // k.shape[1])
        out = torch.empty(q.shape, dtype=q.dtype)
        kernel(bits_of(q), keys, values, self._tables, self._tiles, np.float32(scale), bits_of(out))
        return out


def tiles_of(batch: AttentionBatch) -> np.ndarray:
    """Cut rows into tiles: (tiles, 5) of row, first query, number, its position, reversed."""
    tiles_per_row = -(-batch.counts // TILE)
    row = np.repeat(np.arange(len(batch.counts), dtype=np.int32), tiles_per_row)
    before = np.repeat(np.cumsum(tiles_per_row) - tiles_per_row, tiles_per_row)
    at = (np.arange(len(row)) - before) * TILE  # queries of the row in earlier tiles
    columns = (
        row,
        batch.offsets[row] + at,
        np.minimum(TILE, batch.counts[row] - at),
        batch.starts[row] + at,
        batch.reverse[row],
    )
    return np.stack(columns, axis=1).astype(np.int32)


def dealt(tiles: np.ndarray, num_threads: int) -> np.ndarray:
    """The tiles in an order in which equal shares of it, one for each thread, take equally long.

    Longest first, dealt out like cards, back and forth.
    """
    if len(tiles) <= num_threads:
        return tiles
    order = np.argsort(-tiles[:, 2] * (tiles[:, 3] + tiles[:, 2]), kind="stable")
    turns = np.arange(len(tiles)) % (2 * num_threads)
    hands = np.minimum(turns, 2 * num_threads - 1 - turns)
    return tiles[order[np.argsort(hands, kind="stable")]]
