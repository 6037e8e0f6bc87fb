"""Attention on CPU: a Numba kernel that reads the paged pool in place, in bfloat16 or float32.

One kernel does decodes and prompt chunks of both classes. Work is cut into `tasks`: each is a tile
of queries and a segment of their row's tokens. If there are few, each KV head is a task of its own.
A task walks over its blocks once with an online softmax (`block_step`). The new key and value of a
decode are stored on the way, those of prompts beforehand. Segments of a tile are merged at the end.
Tasks depend on neither threads nor other rows, so results are the same to the bit. bfloat16 is read
as uint16.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numba import get_num_threads, njit, prange

from bros.workers.attention.block_step import LOWEST, block_step, prefetch
from bros.workers.attention.interface import AttentionBatch, KvPool
from bros.workers.attention.tasks import TILE, balance_tasks, cut
from bros.workers.cpu.bits import bits_of, exp, load, narrow

TASKS_PER_THREAD = 2  # from which on threads get all KV heads of a tile, not single ones
FEW = 16  # new tokens that one thread stores faster than several


@njit(cache=True, error_model="numpy")
def _store_token(k: Any, v: Any, keys: Any, values: Any, slot: Any) -> None:
    """Store one token's new keys and values, as bits, at its place in a block."""
    for head in range(k.shape[0]):
        for d in range(k.shape[1]):
            keys[head, d, slot] = k[head, d]
            values[head, slot, d] = v[head, d]


@njit(cache=True, error_model="numpy")
def _store_few(k: Any, v: Any, tokens: Any, keys: Any, values: Any, places: Any) -> None:
    for i in range(len(tokens)):
        token, block = tokens[i], places[0, i]
        _store_token(k[token], v[token], keys[block], values[block], places[1, i])


@njit(cache=True, parallel=True, error_model="numpy")
def _store_many(k: Any, v: Any, tokens: Any, keys: Any, values: Any, places: Any) -> None:
    for i in prange(len(tokens)):
        token, block = tokens[i], places[0, i]
        _store_token(k[token], v[token], keys[block], values[block], places[1, i])


@njit(cache=True, fastmath=True)
def _read_queries(q: Any, first: Any, head: Any, sizes: Any, scale: Any, out: Any) -> None:
    """Write scaled queries to `out`: KV heads from `head` on, queries, heads of a group, dims."""
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
    """Write sums, divided by their totals, to the outputs: the reverse of `_read_queries`."""
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


@njit(cache=True)
def _set_aside(part: Any, base: Any, sizes: Any, state: Any, parts: Any) -> None:
    """Keep the state of a segment, for heads from `base` on, until `_merge`."""
    span, count, group = sizes
    for kept, values in zip(parts, state):  # noqa: B905, Numba has no `strict`
        width = len(values) // (span * TILE * group)  # numbers of a query and head
        size = span * count * group * width
        at = base * count * group * width
        kept[part, at : at + size] = values[:size]


@njit(parallel=True, fastmath=True, cache=True, error_model="numpy")
def _merge(merges: Any, kv_heads: Any, group: Any, parts: Any, out: Any) -> None:
    """Write outputs of tiles in several segments: first query, queries, first part, parts."""
    sums, peaks, totals = parts
    size = out.shape[2]
    for task in prange(len(merges) * kv_heads):
        first, count, part, num_parts = merges[task // kv_heads]
        head = task % kv_heads
        mean = np.empty(size, np.float32)
        for r in range(head * count * group, (head + 1) * count * group):
            peak = peaks[part, r]
            for p in range(part + 1, part + num_parts):
                peak = max(peak, peaks[p, r])
            mean[:] = 0
            total = np.float32(0)
            for p in range(part, part + num_parts):
                share = exp(peaks[p, r] - peak)
                total += totals[p, r] * share
                for d in range(size):
                    mean[d] += sums[p, r * size + d] * share
            query, g = divmod(r - head * count * group, group)
            for d in range(size):
                place = first + query, head * group + g, d
                out[place] = narrow(mean[d] / total, out[place])


@cache
def _make_kernel(B: int, D: int, G: int) -> Callable[..., None]:
    """Make the kernel for a block size, head size and group size: as constants, loops unroll.

    Only numbers may be free variables in it. Numba's disk cache finds a kernel by their values, and
    a function would have another value in each process.
    """

    @njit(parallel=True, fastmath=True, cache=True, error_model="numpy")
    def kernel(
        q: Any,  # (queries, heads, D)
        k: Any,  # (queries, kv_heads, D)
        v: Any,
        keys: Any,  # (blocks, kv_heads, D, B)
        values: Any,  # (blocks, kv_heads, B, D)
        tables: Any,  # (rows, blocks)
        tasks: Any,  # (tasks, 8), see `tasks.cut`
        shares: Any,  # into how many the KV heads of a task are dealt
        scale: Any,
        parts: Any,  # sums, peaks and totals of segments to be merged, (parts, numbers) each
        out: Any,  # (queries, heads, D)
    ) -> None:
        kv_heads = keys.shape[1]
        span = kv_heads // shares
        for index in prange(len(tasks) * shares):
            row, first, count, start, reverse, begin, end, part = tasks[index // shares]
            base = index % shares * span
            rows = count * G  # of a KV head: queries times heads of its group
            qs = np.empty(span * TILE * G * D, np.float32)
            sums = np.zeros(span * TILE * G * D, np.float32)
            peaks = np.full(span * TILE * G, LOWEST, np.float32)
            totals = np.zeros(span * TILE * G, np.float32)
            weights = np.empty(G * B, np.float32)
            if count == 1 and end > start // B:
                offset = start % B
                slot = B - 1 - offset if reverse else offset
                newest, own = tables[row, start // B], slice(base, base + span)
                _store_token(
                    k[first, own], v[first, own], keys[newest, own], values[newest, own], slot
                )
            _read_queries(q, first, base * G, (span, count, G), scale, qs)
            for j in range(begin, end):
                for h in range(span):
                    at = (np.int64(tables[row, j]) * kv_heads + base + h) * (B * D)
                    if j + 1 < end:
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
            if part < 0:
                _write_outputs(out, first, base * G, (span, count, G), sums, totals)
            else:
                _set_aside(part, base, (span, count, G), (sums, peaks, totals), parts)

    compiled: Callable[..., None] = kernel
    return compiled


@dataclass(frozen=True)
class _Bound:
    """What depends on a call's tensors, which are the same in all our layers of an iteration."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    out: torch.Tensor
    bits: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # of these
    kernel: Callable[..., None]
    shares: int
    group: int
    parts: tuple[np.ndarray, ...]


class NumbaAttention:
    """See `Attention`. Kernels are compiled at their first call, and cached on disk."""

    def __init__(self, pool: KvPool) -> None:
        self._keys = [bits_of(keys) for keys in pool.keys]
        self._values = [bits_of(values) for values in pool.values]
        self._parts: tuple[np.ndarray, ...] = (np.empty((0, 0), np.float32),)
        self._places = np.empty((2, 0), np.int32)  # blocks and slots of prompts' tokens
        self._bound: _Bound | None = None

    def begin(self, batch: AttentionBatch) -> None:
        self._bound = None
        self._tables = np.ascontiguousarray(batch.tables)
        tasks, self._merges = cut(batch)
        self._num_parts = int(self._merges[:, 3].sum())
        self._tasks = balance_tasks(tasks, get_num_threads())
        self._crowded = len(tasks) >= TASKS_PER_THREAD * get_num_threads()
        rows = batch.row_of_query
        self._prompts = np.flatnonzero(batch.counts[rows] > 1)  # tokens that are not decodes
        if len(self._prompts):
            self._places = np.stack(batch.places(batch.positions, rows))[:, self._prompts]

    def __call__(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """See `Attention`. Layers that pass the same tensors get the same output tensor."""
        bound = self._bound
        if bound is None or not (bound.q is q and bound.k is k and bound.v is v):
            bound = self._bound = self._bind(q, k, v)
        new_q, new_keys, new_values, out = bound.bits
        keys, values = self._keys[layer], self._values[layer]
        if len(self._prompts):
            store = _store_few if len(self._prompts) <= FEW else _store_many
            store(new_keys, new_values, self._prompts, keys, values, self._places)
        bound.kernel(
            new_q,
            new_keys,
            new_values,
            keys,
            values,
            self._tables,
            self._tasks,
            bound.shares,
            np.float32(scale),
            bound.parts,
            out,
        )
        if len(self._merges):
            _merge(self._merges, len(new_keys[0]), bound.group, bound.parts, out)
        return bound.out

    def _bind(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> _Bound:
        _, heads, head_dim = q.shape
        kv_heads = k.shape[1]
        out = torch.empty(q.shape, dtype=q.dtype)
        bits = bits_of(q), bits_of(k), bits_of(v), bits_of(out)
        kernel = _make_kernel(self._keys[0].shape[3], head_dim, heads // kv_heads)
        # A block's heads lie side by side and are best read together, if there is work for all.
        shares = 1 if self._crowded else kv_heads
        parts = self._room_for_parts(heads * TILE, head_dim)
        return _Bound(q, k, v, out, bits, kernel, shares, heads // kv_heads, parts)

    def _room_for_parts(self, num_queries: int, head_dim: int) -> tuple[np.ndarray, ...]:
        """Return room for sums, peaks and totals of all parts; reuse the last if it is enough."""
        sums = self._parts[0]
        if len(sums) < self._num_parts or sums.shape[1] != num_queries * head_dim:
            widths = (num_queries * head_dim, num_queries, num_queries)
            self._parts = tuple(np.empty((self._num_parts, w), np.float32) for w in widths)
        return self._parts
