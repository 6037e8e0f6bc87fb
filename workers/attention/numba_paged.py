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
from llvmlite import ir
from numba import njit, prange, types
from numba.extending import intrinsic

from bros.workers.attention.chunks import Chunk
from bros.workers.attention.interface import AttentionBatch, KvPool

TILE = 8
CHUNK_MIN = 16  # queries of a row from which gathering its keys pays (measured)
LOG2_E = np.float32(1.4426950408889634)
LOWEST = np.float32(-1e30)  # finite: the difference of two of them is 0, not NaN


@intrinsic
def _float_of_bits(_: Any, bits: Any) -> Any:
    """Reinterpret a uint32 as float32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.uint32), generate


@intrinsic
def _load(_: Any, x: Any) -> Any:
    """A float32 from a float32, or from the bits of a bfloat16, which are its upper half."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if x is types.float32:
            return arguments[0]
        wide = builder.zext(arguments[0], ir.IntType(32))
        return builder.bitcast(builder.shl(wide, ir.Constant(ir.IntType(32), 16)), ir.FloatType())

    return types.float32(x), generate


@intrinsic
def _round(_: Any, x: Any, like: Any) -> Any:
    """A float32 as what `like` is: itself, or the bits of the nearest bfloat16, ties to even."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if like is types.float32:
            return arguments[0]
        word = ir.IntType(32)
        upper = ir.Constant(word, 16)
        bits = builder.bitcast(arguments[0], word)
        odd = builder.and_(builder.lshr(bits, upper), ir.Constant(word, 1))
        bits = builder.add(builder.add(bits, odd), ir.Constant(word, 0x7FFF))
        return builder.trunc(builder.lshr(bits, upper), ir.IntType(16))

    return like(x, like), generate


@njit(inline="always", fastmath=True)
def _exp(x: Any) -> Any:
    """e**x for x <= 0, to float32 precision: a polynomial for the fraction, bits for the rest."""
    y = max(x * LOG2_E, np.float32(-126.0))
    whole = np.floor(y + np.float32(0.5))
    f = y - whole
    p = np.float32(1.5403530e-4)
    p = p * f + np.float32(1.3333558e-3)
    p = p * f + np.float32(9.6181291e-3)
    p = p * f + np.float32(5.5504109e-2)
    p = p * f + np.float32(2.4022651e-1)
    p = p * f + np.float32(6.9314718e-1)
    p = p * f + np.float32(1.0)
    return p * _float_of_bits(np.uint32(np.int32(whole) + np.int32(127)) << np.uint32(23))


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
        out: Any,  # (queries, heads, D)
    ) -> None:
        kv_heads = keys.shape[1]
        like = keys[0, 0, 0, 0]
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
                    qs[r, d] = _load(q[first + r // G, head * G + r % G, d]) * scale
            for j in range((start + count - 1) // B + 1):
                block = tables[row, j]
                for d in range(D):
                    for slot in range(B):
                        kb[d, slot] = _load(keys[block, head, d, slot])
                for slot in range(B):
                    for d in range(D):
                        vb[slot, d] = _load(values[block, head, slot, d])
                for r in range(count * G):
                    valid = min(B, start + r // G - j * B + 1)
                    if valid <= 0:
                        continue
                    s[:] = 0
                    for d in range(0, D - 7, 8):  # sums stay in registers for eight dimensions
                        q0, q1, q2, q3 = qs[r, d], qs[r, d + 1], qs[r, d + 2], qs[r, d + 3]
                        q4, q5, q6, q7 = qs[r, d + 4], qs[r, d + 5], qs[r, d + 6], qs[r, d + 7]
                        for slot in range(B):
                            s[slot] += (
                                (q0 * kb[d, slot] + q1 * kb[d + 1, slot])
                                + (q2 * kb[d + 2, slot] + q3 * kb[d + 3, slot])
                            ) + (
                                (q4 * kb[d + 4, slot] + q5 * kb[d + 5, slot])
                                + (q6 * kb[d + 6, slot] + q7 * kb[d + 7, slot])
                            )
                    for d in range(D - D % 8, D):
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
                        shrink = _exp(highest[r] - top)
                        total[r] *= shrink
                        for d in range(D):
                            acc[r, d] *= shrink
                        highest[r] = top
                    for slot in range(B):
                        s[slot] = _exp(s[slot] - top)
                    for slot in range(B):
                        total[r] += s[slot]
                    for slot in range(0, B - 3, 4):
                        s0, s1, s2, s3 = s[slot], s[slot + 1], s[slot + 2], s[slot + 3]
                        for d in range(D):
                            acc[r, d] += (s0 * vb[slot, d] + s1 * vb[slot + 1, d]) + (
                                s2 * vb[slot + 2, d] + s3 * vb[slot + 3, d]
                            )
                    for slot in range(B - B % 4, B):
                        for d in range(D):
                            acc[r, d] += s[slot] * vb[slot, d]
            for r in range(count * G):
                share = np.float32(1) / total[r]
                for d in range(D):
                    out[first + r // G, head * G + r % G, d] = _round(acc[r, d] * share, like)

    compiled: Callable[..., None] = kernel
    return compiled


def _bits(tensor: torch.Tensor) -> np.ndarray:
    """The tensor's memory as an array that Numba knows: bfloat16 as uint16."""
    if tensor.dtype is torch.bfloat16:
        tensor = tensor.view(torch.uint16)
    return tensor.numpy()


class NumbaAttention:
    """See `Attention`. Kernels compile at their first call and are cached on disk."""

    def __init__(self, pool: KvPool) -> None:
        self._pool = pool
        self._keys = [_bits(keys) for keys in pool.keys]
        self._values = [_bits(values) for values in pool.values]

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
        _store(_bits(k), _bits(v), keys, values, self._blocks, self._slots)
        out = torch.empty(q.shape, dtype=q.dtype)  # dense, also where q is a slice
        if len(self._tiles):
            _, heads, head_dim = q.shape
            kernel = _make_kernel(keys.shape[3], head_dim, heads // k.shape[1])
            kernel(
                _bits(q),
                keys,
                values,
                self._batch.tables,
                self._batch.reverse,
                self._tiles,
                np.float32(scale),
                _bits(out),
            )
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
