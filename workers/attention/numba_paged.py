"""Attention on CPU: a Numba kernel that reads the paged pool in place, in bfloat16 or float32.

One kernel for decodes and prompt chunks of both classes. Work is cut into tiles of up to `TILE`
queries of one row, and if they are few, by KV heads; a tile walks over its row's blocks once, with
an online softmax (`block_step`), while a block is in the cache. bfloat16 is read as uint16.
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
TILES_PER_THREAD = 2  # from which on threads get whole tiles, not single KV heads of them
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


@njit(cache=True, fastmath=True)
def _read_queries(q: Any, first: Any, head: Any, sizes: Any, scale: Any, out: Any) -> None:
    """`out`: KV heads, queries, heads of a group, dimensions; from heads `head` on."""
    span, count, group = sizes
    size = q.shape[2]
    for h in range(span):
        for i in range(count):
            for g in range(group):
                at = ((h * count + i) * group + g) * size
                for d in range(size):
                    out[at + d] = load(q[first + i, head + h * group + g, d]) * scale


@njit(cache=True, fastmath=True, error_model="numpy")
def _write_outputs(out: Any, first: Any, head: Any, sizes: Any, sums: Any, totals: Any) -> None:
    """The reverse, of sums by their totals."""
    span, count, group = sizes
    size = out.shape[2]
    for h in range(span):
        for i in range(count):
            for g in range(group):
                r = (h * count + i) * group + g
                share = np.float32(1) / totals[r]
                for d in range(size):
                    place = first + i, head + h * group + g, d
                    out[place] = narrow(sums[r * size + d] * share, out[place])


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
        shares: Any,  # tasks that the KV heads of a tile are dealt to
        scale: Any,
        out: Any,  # (queries, heads, D)
    ) -> None:
        kv_heads = keys.shape[1]
        span = kv_heads // shares
        for task in prange(len(tiles) * shares):
            row, first, count, start, reverse = tiles[task // shares]
            base = task % shares * span
            rows = count * G  # of a KV head: queries times heads of its group
            qs = np.empty(span * TILE * G * D, np.float32)
            sums = np.zeros(span * TILE * G * D, np.float32)
            peaks = np.full(span * TILE * G, LOWEST, np.float32)
            totals = np.zeros(span * TILE * G, np.float32)
            weights = np.empty(G * B, np.float32)
            _read_queries(q, first, base * G, (span, count, G), scale, qs)
            for j in range((start + count - 1) // B + 1):
                for h in range(span):
                    at = (np.int64(tables[row, j]) * kv_heads + base + h) * (B * D)
                    if (j + 1) * B < start + count:
                        ahead = (np.int64(tables[row, j + 1]) * kv_heads + base + h) * (B * D)
                        prefetch(B, D, keys, ahead)
                        prefetch(B, D, values, ahead)
                    for query in range(max(0, j * B - start), count):
                        # In the newest block, slots beyond the query hold other tokens.
                        valid = min(B, start + query - j * B + 1)
                        low = B - valid if reverse else 0
                        r = h * rows + query * G
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
            _write_outputs(out, first, base * G, (span, count, G), sums, totals)

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
        self._crowded = len(self._tiles) >= TILES_PER_THREAD * get_num_threads()
        self._places = np.stack(batch.places(batch.positions, batch.row_of_query))

    def __call__(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float
    ) -> torch.Tensor:
        keys, values = self._keys[layer], self._values[layer]
        store = _store_few if self._places.shape[1] <= FEW else _store_many
        store(bits_of(k), bits_of(v), keys, values, self._places)
        _, heads, head_dim = q.shape
        kernel = _make_kernel(keys.shape[3], head_dim, heads // k.shape[1])
        # A block's heads lie side by side and are best read together, if there is work for all.
        shares = 1 if self._crowded else k.shape[1]
        out = torch.empty(q.shape, dtype=q.dtype)
        kernel(
            bits_of(q),
            keys,
            values,
            self._tables,
            self._tiles,
            shares,
            np.float32(scale),
            bits_of(out),
        )
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
