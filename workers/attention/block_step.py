"""One step of online softmax: a group of query heads meets one block of keys and values.

It is written as LLVM vectors: loops over arrays leave every partial sum in memory, which takes ten
times as long (measured). A register holds slots of a block, or dimensions of a value. The heads of
a group share keys and values, so each is read and converted once for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import gcd
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from bros.workers.cpu import llvm
from bros.workers.cpu.llvm import BYTE, FLOAT, INDEX, LINE_BYTES, WORD
from bros.workers.cpu.vectors import FAST, Vectors

LANES = 16  # float32 in the widest registers; narrower ones take several
SUMS = 16  # partial sums that are kept in registers at a time
UNROLL = 4
LOWEST = -1e30  # finite: the difference of two of them is 0, not NaN


class Step:
    """Builds the step for one group. Pointers are to the first element of what is named."""

    def __init__(self, builder: ir.IRBuilder, block_size: int, head_dim: int, heads: int) -> None:
        self._builder = builder
        self._block_size = block_size
        self._head_dim = head_dim
        self._heads = heads
        self._slots = Vectors(builder, gcd(block_size, LANES))
        self._dims = Vectors(builder, gcd(head_dim, LANES))

    def _at(self, pointer: ir.Value, *terms: int | ir.Value | tuple[ir.Value, int]) -> ir.Value:
        """Return the element at the sum of the terms; a pair is a product."""
        builder, index = self._builder, INDEX(0)
        for term in terms:
            if isinstance(term, tuple):
                term = builder.mul(term[0], INDEX(term[1]))
            index = builder.add(index, INDEX(term) if isinstance(term, int) else term)
        return builder.gep(pointer, [index])

    def _sums(
        self, vectors: Vectors, starts: Sequence[ir.Value]
    ) -> tuple[list[ir.Value], Callable[[int, ir.Value, ir.Value], None]]:
        """Return variables, kept in registers, and a function that adds a product to one."""
        variables = [cgutils.alloca_once(self._builder, vectors.type) for _ in starts]
        for variable, start in zip(variables, starts, strict=True):
            self._builder.store(start, variable)

        def add(index: int, a: ir.Value, b: ir.Value) -> None:
            total = self._builder.load(variables[index])
            self._builder.store(vectors.multiply_add(a, b, total), variables[index])

        return variables, add

    def _for_each(self, count: int, body: Callable[[ir.Value], None]) -> None:
        """Build a loop that does several rounds at a time."""
        unroll = gcd(count, UNROLL)
        with cgutils.for_range(self._builder, INDEX(count // unroll)) as loop:
            first = self._builder.mul(loop.index, INDEX(unroll))
            for k in range(unroll):
                body(self._builder.add(first, INDEX(k)))

    def scores(self, queries: ir.Value, keys: ir.Value, out: ir.Value) -> None:
        """Write products of queries (heads, head_dim) and keys to `out` (heads, block_size)."""
        slots, size, dims = self._slots, self._block_size, self._head_dim
        with cgutils.for_range(self._builder, INDEX(size // slots.size)) as tile:
            first = self._builder.mul(tile.index, INDEX(slots.size))
            sums, add = self._sums(slots, [slots.constant(0.0)] * self._heads)

            def meet(dim: ir.Value) -> None:
                key = slots.load(self._at(keys, (dim, size), first))
                for head in range(self._heads):
                    query = self._builder.load(self._at(queries, head * dims, dim))
                    add(head, key, slots.splat(query))

            self._for_each(dims, meet)
            for head, total in enumerate(sums):
                slots.store(self._builder.load(total), self._at(out, head * size, first))

    def softmax(
        self, scores: ir.Value, low: ir.Value, high: ir.Value, peaks: ir.Value, totals: ir.Value
    ) -> list[ir.Value]:
        """Turn scores of slots in [low, high) into weights; return factors for old sums."""
        builder = self._builder
        shrinks = []
        for head in range(self._heads):
            row = self._at(scores, head * self._block_size)
            peak_at, total_at = self._at(peaks, head), self._at(totals, head)
            old = builder.load(peak_at)
            peak = self._peak(row, low, high, old)
            builder.store(peak, peak_at)
            one = Vectors(builder, 1)
            shrink = one.exp(one.splat(builder.fsub(old, peak, flags=FAST)))
            shrink = builder.extract_element(shrink, WORD(0))
            total = builder.fmul(builder.load(total_at), shrink, flags=FAST)
            builder.store(builder.fadd(total, self._weigh(row, peak), flags=FAST), total_at)
            shrinks.append(shrink)
        return shrinks

    def _tiles(self) -> range:
        return range(0, self._block_size, self._slots.size)

    def _peak(self, row: ir.Value, low: ir.Value, high: ir.Value, old: ir.Value) -> ir.Value:
        """Return the highest score; set those of slots that do not count to `LOWEST`."""
        builder, slots = self._builder, self._slots
        best = slots.splat(old)
        low, high = (slots.splat(builder.trunc(bound, WORD)) for bound in (low, high))
        for first in self._tiles():
            offset = llvm.constant(low.type, first)
            lanes = builder.add(slots.lanes(), offset)
            valid = builder.and_(
                builder.icmp_signed(">=", lanes, low), builder.icmp_signed("<", lanes, high)
            )
            at = self._at(row, first)
            score = builder.select(valid, slots.load(at), slots.constant(LOWEST))
            slots.store(score, at)
            best = slots.maximum(best, score)
        return slots.reduce("fmax", best)

    def _weigh(self, row: ir.Value, peak: ir.Value) -> ir.Value:
        """Turn scores into weights in place; return their sum."""
        slots, total = self._slots, self._slots.constant(0.0)
        for first in self._tiles():
            at = self._at(row, first)
            below = self._builder.fsub(slots.load(at), slots.splat(peak), flags=FAST)
            weight = slots.exp(below)
            slots.store(weight, at)
            total = self._builder.fadd(total, weight, flags=FAST)
        return slots.reduce("fadd", total, FLOAT(0.0))

    def values(
        self, weights: ir.Value, shrinks: list[ir.Value], values: ir.Value, out: ir.Value
    ) -> None:
        """Shrink `out` (heads, head_dim), then add the values times their weights."""
        dims, width = self._dims, self._head_dim
        at_once = max(1, SUMS // self._heads) * dims.size  # dimensions
        for first in range(0, width, at_once):
            parts = [
                (head, dim)
                for dim in range(first, min(first + at_once, width), dims.size)
                for head in range(self._heads)
            ]
            starts = [
                dims.multiply(
                    dims.load(self._at(out, head * width + dim)), dims.splat(shrinks[head])
                )
                for head, dim in parts
            ]
            sums, add = self._sums(dims, starts)
            self._for_each(self._block_size, self._meet_value(parts, weights, values, add))
            for (head, dim), total in zip(parts, sums, strict=True):
                dims.store(self._builder.load(total), self._at(out, head * width + dim))

    def _meet_value(
        self,
        parts: list[tuple[int, int]],
        weights: ir.Value,
        values: ir.Value,
        add: Callable[[int, ir.Value, ir.Value], None],
    ) -> Callable[[ir.Value], None]:
        dims, size, width = self._dims, self._block_size, self._head_dim

        def meet(slot: ir.Value) -> None:
            shares = [
                dims.splat(self._builder.load(self._at(weights, head * size, slot)))
                for head in range(self._heads)
            ]
            read: dict[int, ir.Value] = {}
            for index, (head, dim) in enumerate(parts):
                if dim not in read:
                    read[dim] = dims.load(self._at(values, (slot, width), dim))
                add(index, read[dim], shares[head])

        return meet


@intrinsic(prefer_literal=True)
def block_step(
    _: Any,
    block_size: Any,
    head_dim: Any,
    heads: Any,
    queries: Any,
    keys: Any,
    values: Any,
    block: Any,
    bounds: Any,
    scratch: Any,
    state: Any,
) -> Any:
    """`block_step(B, D, G, (qs, at), keys, values, at, (low, high), weights, state)`: one step.

    `qs`: scaled queries, float32; a group's (G, D) begin at `at`. `keys`, `values`: a layer's
    pool, in which this block and KV head begin at element `at`. Slots in [low, high) count.
    `weights`: scratch (G * B,). `state`: sums (G, D), highest scores (G,) and totals (G,), each an
    array and where the group's part begins.
    """
    sizes = [size.literal_value for size in (block_size, head_dim, heads)]

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kinds = signature.args

        def pointer(kind: Any, value: ir.Value, at: ir.Value | None = None) -> ir.Value:
            data = context.make_array(kind)(context, builder, value).data
            return data if at is None else builder.gep(data, [at])

        def part(number: int, index: int) -> ir.Value:
            """Pointer from the pair (array, position) at `index` of argument `number`."""
            array = builder.extract_value(arguments[number], index)
            at = builder.extract_value(arguments[number], index + 1)
            return pointer(kinds[number][index], array, at)

        step = Step(builder, *sizes)
        weights = pointer(kinds[8], arguments[8])
        low, high = (builder.extract_value(arguments[7], i) for i in (0, 1))
        sums, peaks, totals = (part(9, index) for index in (0, 2, 4))
        step.scores(part(3, 0), pointer(kinds[4], arguments[4], arguments[6]), weights)
        shrinks = step.softmax(weights, low, high, peaks, totals)
        step.values(weights, shrinks, pointer(kinds[5], arguments[5], arguments[6]), sums)
        return context.get_dummy_value()

    arguments = (block_size, head_dim, heads, queries, keys, values, types.int64, bounds)
    return types.none(*arguments, scratch, state), generate


@intrinsic(prefer_literal=True)
def prefetch(_: Any, block_size: Any, head_dim: Any, array: Any, first: Any) -> Any:
    """Fetch the B * D elements from `at` into the cache: `prefetch(B, D, array, at)`."""
    num_bytes = block_size.literal_value * head_dim.literal_value * array.dtype.bitwidth // 8

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[2])(context, builder, arguments[2]).data
        start = builder.bitcast(builder.gep(data, [arguments[3]]), BYTE.as_pointer())
        for at in range(0, num_bytes, LINE_BYTES):
            llvm.prefetch(builder, builder.gep(start, [INDEX(at)]))
        return context.get_dummy_value()

    return types.none(block_size, head_dim, array, types.int64), generate
