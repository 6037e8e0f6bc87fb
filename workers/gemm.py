"""Products with weights in bfloat16 or int8, on CPUs with AVX-512's dot product of pairs.

oneDNN's kernels are made for many tokens: with the tens that an iteration has, a third of their
time is lost (`docs/design/executor.md`). Here weights lie in panels of `PANEL` outputs, pair after
pair of inputs. A tile of up to `TILE` tokens meets a panel with all its sums in registers, while
the next panel is fetched. int8 is made bfloat16, which is exact, on its way into a register.

A token's sums add up in the same order in every tile: what it is batched with changes no bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import torch
from llvmlite import ir
from numba import get_num_threads, njit, prange, types
from numba.core import cgutils
from numba.extending import intrinsic

from bros.workers.bits import bits_of
from bros.workers.prefetch import emit_prefetch

LANES = 16  # float32 in a register
HALVES = 2  # registers of sums for each token
PANEL = HALVES * LANES  # outputs
TILE = 12  # tokens: 24 sums, two registers of weights and one of inputs, of 32
TASKS_PER_THREAD = 4

BYTE, HALF, WORD, INDEX = (ir.IntType(bits) for bits in (8, 16, 32, 64))
WORDS, FLOATS = ir.VectorType(WORD, LANES), ir.VectorType(ir.FloatType(), LANES)


class _Bfloat16(ir.Type):  # type: ignore[misc]
    """LLVM's type, which llvmlite does not know."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Bfloat16)

    def __hash__(self) -> int:
        return hash(_Bfloat16)


PAIRS = ir.VectorType(_Bfloat16(), 2 * LANES)


def has_dot_product() -> bool:
    """Whether this CPU has the instruction, `vdpbf16ps`."""
    return bool(llvm.get_host_cpu_features().get("avx512bf16", False))


def has_matrix_unit() -> bool:
    """Whether it has one for matrices: with that, oneDNN is faster for many tokens."""
    return bool(llvm.get_host_cpu_features().get("amx-bf16", False))


def fits(weight: torch.Tensor) -> bool:
    """Whether weights (outputs, inputs) can be cut into panels."""
    outputs, inputs = weight.shape
    return outputs % PANEL == 0 and inputs % 2 == 0


def to_panels(weight: torch.Tensor) -> np.ndarray:
    """Weights (outputs, inputs), bfloat16 as bits or int8: (panels, pairs of inputs, PANEL, 2)."""
    outputs, inputs = weight.shape
    panels = weight.view(outputs // PANEL, PANEL, inputs // 2, 2).transpose(1, 2)
    return bits_of(panels.contiguous())


def multiply(
    x: torch.Tensor, panels: np.ndarray, scale: np.ndarray, dtype: torch.dtype = torch.bfloat16
) -> torch.Tensor:
    """`x` (tokens, inputs), bfloat16, times weights: (tokens, outputs), of `dtype`, or float32.

    `scale` (outputs,), float32, multiplies what int8 gives; with bfloat16 it is not read.
    """
    out = x.new_empty(x.shape[0], len(panels) * PANEL, dtype=dtype)
    product(bits_of(x.contiguous()), panels, scale, bits_of(out), get_num_threads())
    return out


@njit(cache=True)
def product(x: Any, panels: Any, scale: Any, out: Any, threads: Any) -> None:
    """`multiply` of bits."""
    if len(x):
        tiles = -(-len(x) // TILE)
        groups = min(tiles, -(-TASKS_PER_THREAD * threads // len(panels)))
        _multiply(x, panels, scale, out, tiles, groups)


@njit(parallel=True, cache=True, error_model="numpy")
def _multiply(x: Any, panels: Any, scale: Any, out: Any, tiles: Any, groups: Any) -> None:
    """Panels are shared out among threads, and so are tiles, in `groups`, if panels are few."""
    tokens = len(x)
    for task in prange(len(panels) * groups):
        panel, group = task // groups, task % groups
        for tile in range(group * tiles // groups, (group + 1) * tiles // groups):
            first = tokens * tile // tiles  # tiles of equal size, give or take one
            _meet(x, first, tokens * (tile + 1) // tiles - first, panels, panel, scale, out)


class _Panel:
    """Builds code for one panel. Pointers are to the first element of what is named."""

    def __init__(
        self, builder: ir.IRBuilder, pairs: ir.Value, weights: ir.Value, scale: ir.Value
    ) -> None:
        self._builder = builder
        self._pairs = pairs  # of inputs
        self._weights = weights
        self._scale = scale
        self._is_int8 = weights.type.pointee is BYTE

    def dot(self, inputs: Sequence[ir.Value], outputs: Sequence[ir.Value]) -> None:
        """One row of `inputs` for each of `outputs`, all times the panel."""
        builder = self._builder
        places = [(row, half) for row in range(len(inputs)) for half in range(HALVES)]
        sums = {place: cgutils.alloca_once(builder, FLOATS) for place in places}
        for place in places:
            builder.store(ir.Constant(FLOATS, [0.0] * LANES), sums[place])
        with cgutils.for_range(builder, self._pairs) as loop:
            weights = [self._load(loop.index, half) for half in range(HALVES)]
            for row, values in enumerate(inputs):
                both = self._everywhere(builder.load(builder.gep(values, [loop.index])))
                for half in range(HALVES):
                    total = self._dot(builder.load(sums[row, half]), both, weights[half])
                    builder.store(total, sums[row, half])
            body = builder.basic_block
        self._keep_rolled(body.terminator)
        for row, half in places:
            target = builder.gep(outputs[row], [INDEX(half * LANES)])
            self._store(builder.load(sums[row, half]), half, target)

    def _keep_rolled(self, back: ir.Instruction) -> None:
        """Unrolled, a loop over ten tokens or more has more addresses than registers (measured)."""
        module = self._builder.module
        never = module.add_metadata(["llvm.loop.unroll.disable"])
        loop = module.add_metadata([never, never])
        loop.operands = (loop, never)  # LLVM wants it to begin with itself
        back.set_metadata("llvm.loop", loop)

    def _load(self, pair: ir.Value, half: int) -> ir.Value:
        """A pair of inputs for half the outputs; and ask for the same of the next panel."""
        builder = self._builder
        first = builder.add(builder.mul(pair, INDEX(2 * PANEL)), INDEX(2 * LANES * half))
        at = builder.gep(self._weights, [first])
        emit_prefetch(builder, builder.gep(at, [builder.mul(self._pairs, INDEX(2 * PANEL))]))
        if not self._is_int8:
            return builder.load(builder.bitcast(at, PAIRS.as_pointer()), align=4)
        kind = ir.VectorType(BYTE, 2 * LANES)
        values = builder.load(builder.bitcast(at, kind.as_pointer()), align=2)
        return self._to_bfloat16(values)

    def _to_bfloat16(self, values: ir.Value) -> ir.Value:
        builder = self._builder
        orders = [list(range(LANES * part, LANES * (part + 1))) for part in range(2)]
        low, high = (
            builder.sitofp(
                builder.shuffle_vector(values, values, ir.Constant(WORDS, order)), FLOATS
            )
            for order in orders
        )
        return self._call("cvtne2ps2bf16.512", PAIRS, high, low)

    def _everywhere(self, pair: ir.Value) -> ir.Value:
        builder = self._builder
        first = builder.insert_element(ir.Constant(WORDS, ir.Undefined), pair, WORD(0))
        order = ir.Constant(WORDS, [0] * LANES)
        return builder.bitcast(builder.shuffle_vector(first, first, order), PAIRS)

    def _dot(self, total: ir.Value, a: ir.Value, b: ir.Value) -> ir.Value:
        """total + a[0] * b[0] + a[1] * b[1], for each pair."""
        return self._call("dpbf16ps.512", FLOATS, total, a, b)

    def _call(self, name: str, result: ir.Type, *arguments: ir.Value) -> ir.Value:
        builder = self._builder
        kind = ir.FunctionType(result, [argument.type for argument in arguments])
        name = f"llvm.x86.avx512bf16.{name}"
        function = cgutils.get_or_insert_function(builder.module, kind, name)
        return builder.call(function, arguments)

    def _store(self, sums: ir.Value, half: int, at: ir.Value) -> None:
        """Scale int8's, and round to bfloat16 if that is wanted, to even as `bits.narrow` does."""
        builder = self._builder

        def everywhere(number: int) -> ir.Value:
            return ir.Constant(WORDS, [number] * LANES)

        if self._is_int8:
            scale = builder.gep(self._scale, [INDEX(LANES * half)])
            scale = builder.load(builder.bitcast(scale, FLOATS.as_pointer()), align=4)
            sums = builder.fmul(sums, scale)
        if at.type.pointee is not HALF:
            builder.store(sums, builder.bitcast(at, FLOATS.as_pointer()), align=4)
            return
        bits = builder.bitcast(sums, WORDS)
        odd = builder.and_(builder.lshr(bits, everywhere(16)), everywhere(1))
        rounded = builder.add(bits, builder.add(odd, everywhere(0x7FFF)))
        kind = ir.VectorType(HALF, LANES)
        narrow = builder.trunc(builder.lshr(rounded, everywhere(16)), kind)
        builder.store(narrow, builder.bitcast(at, kind.as_pointer()), align=2)


@intrinsic
def _meet(
    _: Any, x: Any, first: Any, count: Any, panels: Any, panel: Any, scale: Any, out: Any
) -> Any:
    """`count` tokens, at most TILE, of `x` (tokens, inputs) from `first`, times one panel."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def array(index: int) -> Any:
            kind = context.make_array(signature.args[index])
            return kind(context, builder, arguments[index])

        def row(start: ir.Value, size: ir.Value, count: int = 0) -> ir.Value:
            return builder.gep(start, [builder.mul(size, INDEX(count))])

        first, count, panel = (arguments[index] for index in (1, 2, 4))
        pairs = builder.extract_value(array(3).shape, 1)
        width = builder.extract_value(array(6).shape, 1)
        output = builder.mul(panel, INDEX(PANEL))
        start = builder.mul(output, builder.mul(pairs, INDEX(2)))
        weights = builder.gep(array(3).data, [start])
        code = _Panel(builder, pairs, weights, builder.gep(array(5).data, [output]))
        words = builder.bitcast(array(0).data, WORD.as_pointer())
        inputs = builder.gep(words, [builder.mul(first, pairs)])
        outputs = builder.gep(array(6).data, [builder.add(builder.mul(first, width), output)])
        done = builder.append_basic_block("done")
        choice = builder.switch(count, done)
        for rows in range(1, TILE + 1):
            block = builder.append_basic_block(f"rows_{rows}")
            choice.add_case(INDEX(rows), block)
            builder.position_at_end(block)
            code.dot(
                [row(inputs, pairs, i) for i in range(rows)],
                [row(outputs, width, i) for i in range(rows)],
            )
            builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    index = types.int64
    return types.none(x, index, index, panels, index, scale, out), generate
