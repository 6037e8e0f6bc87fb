"""Attention on CUDA: Triton kernels that read the paged pool in place, in both directions.

One kernel does decodes and prompt chunks. A program has a tile: some queries of one row, times the
query heads of one KV head. It walks over the row's keys in sequence order with an online softmax; a
key's slot follows from its position and the row's direction. Few queries with long pasts are split
over several programs, whose results a second kernel merges.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl

from bros.workers.attention.device_batch import DeviceBatch, Tiles
from bros.workers.attention.device_pool import DevicePool

LOG2_E = 1.4426950408889634
KEYS_PER_STEP = 64
WIDE_HEAD = 128  # beyond, fewer keys a step: they would not fit


@triton.jit
def _store(
    k: Any,  # (tokens, KV * D)
    v: Any,
    keys: Any,  # (slots, KV * D)
    values: Any,
    places: Any,  # (tokens,), int64
    WIDTH: tl.constexpr,
    PADDED: tl.constexpr,
) -> None:
    token = tl.program_id(0).to(tl.int64)
    place = tl.load(places + token)
    column = tl.arange(0, PADDED)
    inside = column < WIDTH
    tl.store(keys + place * WIDTH + column, tl.load(k + token * WIDTH + column, inside), inside)
    tl.store(values + place * WIDTH + column, tl.load(v + token * WIDTH + column, inside), inside)


@triton.jit
def _attend(  # noqa: PLR0915
    q: Any,  # (tokens, KV * G, D)
    keys: Any,  # (blocks, B, KV, D)
    values: Any,
    tables: Any,  # (rows, width), int32
    reverse: Any,  # (rows,), int32
    tiles: Any,  # (tiles, 5), int32: row, first query, queries, its position, end of the keys
    out: Any,  # (tokens, KV * G, D)
    lse: Any,  # (tokens, KV * G), float32, base 2
    part: Any,  # (tiles, KV, SPLITS, M, D), float32
    part_lse: Any,  # (tiles, KV, SPLITS, M), float32, base 2
    scale: Any,  # times log2(e)
    width: Any,
    KV: tl.constexpr,
    G: tl.constexpr,
    D: tl.constexpr,
    PADDED_D: tl.constexpr,
    B: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    SPLITS: tl.constexpr,
) -> None:
    tile, head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    row = tl.load(tiles + tile * 5)
    first = tl.load(tiles + tile * 5 + 1)
    count = tl.load(tiles + tile * 5 + 2)
    position = tl.load(tiles + tile * 5 + 3)
    end = tl.load(tiles + tile * 5 + 4)
    backwards = tl.load(reverse + row)

    m = tl.arange(0, M)
    d = tl.arange(0, PADDED_D)
    n = tl.arange(0, N)
    query = m // G
    valid = query < count
    at_query = (first + query).to(tl.int64) * (KV * G) + head * G + m % G
    inside = valid[:, None] & (d < D)[None, :]
    qs = tl.load(q + at_query[:, None] * D + d[None, :], inside, other=0.0)

    share = tl.cdiv(tl.cdiv(end, SPLITS), N) * N
    low = split * share
    high = tl.minimum(end, low + share)

    highest = tl.full([M], -1e30, tl.float32)
    total = tl.zeros([M], tl.float32)
    acc = tl.zeros([M, PADDED_D], tl.float32)
    for start in range(low, high, N):
        p = start + n
        live = p < high
        block = tl.load(tables + row.to(tl.int64) * width + p // B, live, other=0).to(tl.int64)
        offset = p % B
        slot = tl.where(backwards != 0, B - 1 - offset, offset)
        at_key = ((block * B + slot) * KV + head) * D
        there = live[:, None] & (d < D)[None, :]
        k = tl.load(keys + at_key[:, None] + d[None, :], there, other=0.0)
        s = tl.dot(qs, tl.trans(k), input_precision="ieee") * scale
        seen = live[None, :] & (p[None, :] <= position + query[:, None])
        s = tl.where(seen, s, -1e30)
        top = tl.maximum(highest, tl.max(s, 1))
        shrink = tl.exp2(highest - top)
        weights = tl.where(seen, tl.exp2(s - top[:, None]), 0.0)
        v = tl.load(values + at_key[:, None] + d[None, :], there, other=0.0)
        total = total * shrink + tl.sum(weights, 1)
        acc = acc * shrink[:, None]
        acc += tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        highest = top

    some = total > 0.0
    safe = tl.where(some, total, 1.0)
    acc = acc / safe[:, None]
    lse_here = tl.where(some, highest + tl.log2(safe), -1e30)
    if SPLITS == 1:
        tl.store(out + at_query[:, None] * D + d[None, :], acc.to(out.dtype.element_ty), inside)
        tl.store(lse + at_query, lse_here, valid)
    else:
        at_part = ((tile.to(tl.int64) * KV + head) * SPLITS + split) * M + m
        tl.store(part + at_part[:, None] * PADDED_D + d[None, :], acc)
        tl.store(part_lse + at_part, lse_here)


@triton.jit
def _merge(
    tiles: Any,
    out: Any,
    lse: Any,
    part: Any,
    part_lse: Any,
    KV: tl.constexpr,
    G: tl.constexpr,
    D: tl.constexpr,
    PADDED_D: tl.constexpr,
    M: tl.constexpr,
    SPLITS: tl.constexpr,
) -> None:
    """Merge the splits of one tile and KV head by their sums of weights."""
    tile, head = tl.program_id(0), tl.program_id(1)
    first = tl.load(tiles + tile * 5 + 1)
    count = tl.load(tiles + tile * 5 + 2)
    m = tl.arange(0, M)
    d = tl.arange(0, PADDED_D)
    at_part = (tile.to(tl.int64) * KV + head) * SPLITS * M + m
    highest = tl.full([M], -1e30, tl.float32)
    for split in tl.static_range(SPLITS):
        highest = tl.maximum(highest, tl.load(part_lse + at_part + split * M))
    total = tl.zeros([M], tl.float32)
    acc = tl.zeros([M, PADDED_D], tl.float32)
    for split in tl.static_range(SPLITS):
        at = at_part + split * M
        weight = tl.exp2(tl.load(part_lse + at) - highest)
        acc += weight[:, None] * tl.load(part + at[:, None] * PADDED_D + d[None, :])
        total += weight
    query = m // G
    valid = query < count
    at_query = (first + query).to(tl.int64) * (KV * G) + head * G + m % G
    inside = valid[:, None] & (d < D)[None, :]
    value = (acc / total[:, None]).to(out.dtype.element_ty)
    tl.store(out + at_query[:, None] * D + d[None, :], value, inside)
    tl.store(lse + at_query, highest + tl.log2(total), valid)


class TritonAttention:
    """See `Attention`. Instead of `begin` it has `prepare`, for a batch on the device."""

    def __init__(self, pool: DevicePool) -> None:
        self._pool = pool
        self._batch: DeviceBatch | None = None

    def prepare(self, batch: DeviceBatch) -> None:
        """Set the batch that all layers of the next iteration share."""
        self._batch = batch

    def __call__(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float
    ) -> torch.Tensor:
        if self._batch is None:
            raise RuntimeError("prepare() first")
        self.store(layer, k, v)
        return self.attend(layer, q, scale)[0]

    def store(self, layer: int, k: torch.Tensor, v: torch.Tensor) -> None:
        """Write new keys and values to their places."""
        batch, pool = self._ready, self._pool
        width = k.shape[1] * k.shape[2]
        _store[(len(k),)](
            k,
            v,
            pool.keys[layer],
            pool.values[layer],
            batch.places,
            WIDTH=width,
            PADDED=triton.next_power_of_2(width),
        )

    def attend(
        self, layer: int, q: torch.Tensor, scale: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return outputs, and the log2 of each query's sum of weights (tokens, heads)."""
        out = torch.empty_like(q)
        lse = torch.empty(q.shape[:2], dtype=torch.float32, device=q.device)
        for tiles in self._ready.tiles:
            self._launch(layer, q, scale, tiles, (out, lse))
        return out, lse

    @property
    def _ready(self) -> DeviceBatch:
        if self._batch is None:
            raise RuntimeError("prepare() first")
        return self._batch

    def _launch(
        self,
        layer: int,
        q: torch.Tensor,
        scale: float,
        tiles: Tiles,
        results: tuple[torch.Tensor, torch.Tensor],
    ) -> None:
        batch, pool = self._ready, self._pool
        _, heads, head_dim = q.shape
        _, block_size, kv_heads, _ = pool.keys[layer].shape
        padded = max(16, triton.next_power_of_2(head_dim))
        sizes = {"KV": kv_heads, "G": heads // kv_heads, "D": head_dim, "PADDED_D": padded}
        num_tiles, splits = len(tiles.table), tiles.splits
        parts = num_tiles * kv_heads * splits * tiles.height if splits > 1 else 1
        part = torch.empty((parts, padded), dtype=torch.float32, device=q.device)
        part_lse = torch.empty(parts, dtype=torch.float32, device=q.device)
        _attend[(num_tiles, kv_heads, splits)](
            q,
            pool.keys[layer],
            pool.values[layer],
            batch.tables,
            batch.reverse,
            tiles.table,
            *results,
            part,
            part_lse,
            float(np.float32(scale * LOG2_E)),
            batch.tables.shape[1],
            B=block_size,
            M=tiles.height,
            N=KEYS_PER_STEP if padded <= WIDE_HEAD else KEYS_PER_STEP // 2,
            SPLITS=splits,
            **sizes,
        )
        if splits > 1:
            _merge[(num_tiles, kv_heads)](
                tiles.table, *results, part, part_lse, M=tiles.height, SPLITS=splits, **sizes
            )
