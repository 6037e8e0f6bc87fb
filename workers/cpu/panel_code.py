"""Machine code for a tile of tokens times a panel of weights, as LLVM vectors.

Weights are bfloat16 or int8, in panels of `PANEL` outputs, pair after pair of inputs. All sums of a
tile of up to `TILE` tokens stay in registers while the next panel is fetched. If the CPU has
AVX-512's dot product of bfloat16 pairs, int8 is made bfloat16 on its way into a register, which is
exact, and fastest by looking it up. On other CPUs both are made float32, multiplied and added.
CPUs with a matrix unit have code of their own (`matrix_code`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from llvmlite import binding, ir
from numba.core import cgutils

from bros.workers.cpu import llvm
from bros.workers.cpu.llvm import BYTE, FLOAT, HALF, INDEX, WORD, constant

_FEATURES = binding.get_host_cpu_features()


def has_feature(name: str) -> bool:
    """Return whether this CPU has the feature that LLVM calls `name`."""
    return bool(_FEATURES.get(name, False))


HALVES = 2  # registers of sums for each token
# float32 in a register, and tokens whose sums fit into the registers beside weights and inputs: of
# 32 registers, or of 16.
LANES, TILE = (16, 12) if has_feature("avx512f") else (8, 4)
PANEL = HALVES * LANES  # outputs

WORDS, FLOATS = ir.VectorType(WORD, LANES), ir.VectorType(FLOAT, LANES)


class _Bfloat16(ir.Type):  # type: ignore[misc]
    """LLVM's type, which llvmlite does not know."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Bfloat16)

    def __hash__(self) -> int:
        return hash(_Bfloat16)


PAIRS = ir.VectorType(_Bfloat16(), 2 * LANES)
BYTES = ir.VectorType(BYTE, 64)  # as many as AVX-512 has in a register


class PanelCode:
    """Builds code for one panel. Pointers are to the first element of what is named."""

    TILE = TILE  # tokens at a time, at most
    DEPTH = 2  # the number of inputs is a multiple of this

    def __init__(
        self, builder: ir.IRBuilder, pairs: ir.Value, weights: ir.Value, scale: ir.Value
    ) -> None:
        self._builder = builder
        self._pairs = pairs  # of inputs
        self._weights = weights
        self._scale = scale
        self._is_int8 = weights.type.pointee is BYTE

    @staticmethod
    def arranged(panels: torch.Tensor) -> torch.Tensor:
        """Return weights (panels, pairs of inputs, PANEL, 2) in the order that this code reads."""
        return panels

    def multiply(
        self, count: ir.Value, inputs: ir.Value, outputs: ir.Value, width: ir.Value
    ) -> None:
        """Multiply `count` tokens, 1 to `TILE`, by the panel.

        `inputs` are their bfloat16 pairs, as words; `outputs` has rows of `width`.
        """
        builder = self._builder
        done = builder.append_basic_block("done")
        choice = builder.switch(count, done)
        for rows in range(1, self.TILE + 1):
            block = builder.append_basic_block(f"rows_{rows}")
            choice.add_case(INDEX(rows), block)
            builder.position_at_end(block)
            self.dot(
                [self._row(inputs, self._pairs, i) for i in range(rows)],
                [self._row(outputs, width, i) for i in range(rows)],
            )
            builder.branch(done)
        builder.position_at_end(done)

    def _row(self, start: ir.Value, size: ir.Value, number: int) -> ir.Value:
        return self._builder.gep(start, [self._builder.mul(size, INDEX(number))])

    def dot(self, inputs: Sequence[ir.Value], outputs: Sequence[ir.Value]) -> None:
        """Multiply each row of `inputs` by the panel, to the row of `outputs` beside it."""
        builder = self._builder
        places = [(row, half) for row in range(len(inputs)) for half in range(HALVES)]
        sums = {place: cgutils.alloca_once(builder, FLOATS) for place in places}
        for place in places:
            builder.store(constant(FLOATS, 0.0), sums[place])
        with cgutils.for_range(builder, self._pairs) as loop:
            weights = self._halves_of(loop.index)
            for row, values in enumerate(inputs):
                both = self._inputs_of(builder.load(builder.gep(values, [loop.index])))
                for half in range(HALVES):
                    total = self._dot(builder.load(sums[row, half]), both, weights[half])
                    builder.store(total, sums[row, half])
            body = builder.basic_block
        self._keep_rolled(body.terminator)
        for row, half in places:
            target = builder.gep(outputs[row], [INDEX(half * LANES)])
            self._store(builder.load(sums[row, half]), half, target)

    def _halves_of(self, pair: ir.Value) -> list[Any]:
        """Return a pair of inputs' weights for each half of the outputs, as `_dot` wants them."""
        return [self._weights_of(self._at(pair, half)) for half in range(HALVES)]

    def _weights_of(self, at: ir.Value) -> Any:
        """Return the weights of one half."""
        raise NotImplementedError

    def _inputs_of(self, pair: ir.Value) -> Any:
        """Return a pair of inputs, bfloat16 in a word, in all lanes."""
        raise NotImplementedError

    def _dot(self, total: ir.Value, a: Any, b: Any) -> ir.Value:
        """Return total + a[0] * b[0] + a[1] * b[1], for each pair."""
        raise NotImplementedError

    def _keep_rolled(self, back: ir.Instruction) -> None:
        """Do not unroll: ten tokens would need more addresses than registers (measured)."""
        module = self._builder.module
        never = module.add_metadata(["llvm.loop.unroll.disable"])
        loop = module.add_metadata([never, never])
        loop.operands = (loop, never)  # LLVM wants it to begin with itself
        back.set_metadata("llvm.loop", loop)

    def _at(self, pair: ir.Value, half: int) -> ir.Value:
        """Return where a pair's weights for half the outputs are; fetch those of the next panel."""
        builder = self._builder
        first = builder.add(builder.mul(pair, INDEX(2 * PANEL)), INDEX(2 * LANES * half))
        at = builder.gep(self._weights, [first])
        llvm.prefetch(builder, builder.gep(at, [builder.mul(self._pairs, INDEX(2 * PANEL))]))
        return at

    def _load(self, at: ir.Value, kind: ir.Type, align: int) -> ir.Value:
        return self._builder.load(self._builder.bitcast(at, kind.as_pointer()), align=align)

    def _call(self, name: str, result: ir.Type, *arguments: ir.Value) -> ir.Value:
        return llvm.call(self._builder, name, result, *arguments)

    def _scaled(self, sums: ir.Value, half: int) -> ir.Value:
        """Return sums, those of int8 weights multiplied by their scales."""
        if not self._is_int8:
            return sums
        at = self._builder.gep(self._scale, [INDEX(LANES * half)])
        return self._builder.fmul(sums, self._load(at, FLOATS, 4))

    def _store(self, sums: ir.Value, half: int, at: ir.Value) -> None:
        """Scale the sums of int8 weights, and store them, rounded to bfloat16 if `at` is."""
        builder = self._builder
        sums = self._scaled(sums, half)
        if at.type.pointee is not HALF:
            builder.store(sums, builder.bitcast(at, FLOATS.as_pointer()), align=4)
            return
        narrow = llvm.narrow(builder, sums)
        builder.store(narrow, builder.bitcast(at, narrow.type.as_pointer()), align=2)


class DotProductCode(PanelCode):
    """Code with AVX-512's `vdpbf16ps`: two products and two sums in one instruction."""

    def _weights_of(self, at: ir.Value) -> ir.Value:
        if not self._is_int8:
            return self._load(at, PAIRS, 4)
        builder = self._builder
        values = self._load(at, ir.VectorType(BYTE, 2 * LANES), 2)
        orders = [list(range(LANES * part, LANES * (part + 1))) for part in range(2)]
        low, high = (
            builder.sitofp(
                builder.shuffle_vector(values, values, ir.Constant(WORDS, order)), FLOATS
            )
            for order in orders
        )
        return self._call("x86.avx512bf16.cvtne2ps2bf16.512", PAIRS, high, low)

    def _inputs_of(self, pair: ir.Value) -> ir.Value:
        return self._builder.bitcast(llvm.splat(self._builder, pair, LANES), PAIRS)

    def _dot(self, total: ir.Value, a: ir.Value, b: ir.Value) -> ir.Value:
        return self._call("x86.avx512bf16.dpbf16ps.512", FLOATS, total, a, b)


class LookupCode(DotProductCode):
    """The same with `vpermi2b`, which turns int8 into bfloat16 in half the instructions.

    A weight is kept as its sign and its magnitude; the two bytes of the magnitude are looked up,
    and the sign goes into the upper one.
    """

    @staticmethod
    def arranged(panels: torch.Tensor) -> torch.Tensor:
        """See `PanelCode`. Bytes unpack in groups of 16, the first eight for the first half."""
        if panels.dtype is not torch.int8:
            return panels
        signed = panels.abs() | (panels & -128)
        groups = signed.view(*panels.shape[:2], HALVES, -1, 8).transpose(2, 3)
        return groups.reshape(panels.shape)

    def _halves_of(self, pair: ir.Value) -> list[ir.Value]:
        if not self._is_int8:
            return super()._halves_of(pair)
        builder = self._builder
        weights = self._load(self._at(pair, 0), BYTES, 1)
        low, high = (
            self._call("x86.avx512.vpermi2var.qi.512", BYTES, table[0], weights, table[1])
            for table in _magnitudes()
        )
        sign = builder.and_(weights, constant(BYTES, 0x80))
        high = builder.or_(high, sign)
        orders = [
            [at for i in range(BYTES.count) if i // 8 % 2 == half for at in (i, BYTES.count + i)]
            for half in range(HALVES)
        ]
        kind = ir.VectorType(WORD, BYTES.count)
        return [
            builder.bitcast(builder.shuffle_vector(low, high, ir.Constant(kind, order)), PAIRS)
            for order in orders
        ]


def _magnitudes() -> list[tuple[ir.Value, ir.Value]]:
    """Return the lower and the upper bytes of 0 to 127 in bfloat16, in two registers each."""
    bits = np.arange(128, dtype=np.float32).view(np.uint32) >> 16
    return [
        (ir.Constant(BYTES, part[:64].tolist()), ir.Constant(BYTES, part[64:].tolist()))
        for part in (bits & 0xFF, bits >> 8)
    ]


class MultiplyAddCode(PanelCode):
    """Code with what every CPU has: float32, one product and one sum."""

    def _weights_of(self, at: ir.Value) -> tuple[ir.Value, ir.Value]:
        if not self._is_int8:
            return self._widened(self._load(at, WORDS, 4))
        builder = self._builder
        pairs = builder.sext(self._load(at, ir.VectorType(HALF, LANES), 2), WORDS)
        low = builder.ashr(builder.shl(pairs, constant(WORDS, 24)), constant(WORDS, 24))
        high = builder.ashr(pairs, constant(WORDS, 8))
        return builder.sitofp(low, FLOATS), builder.sitofp(high, FLOATS)

    def _inputs_of(self, pair: ir.Value) -> tuple[ir.Value, ir.Value]:
        return self._widened(llvm.splat(self._builder, pair, LANES))

    def _widened(self, pairs: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Return the float32 of pairs of bfloat16, which are their upper halves."""
        builder = self._builder
        low = builder.shl(pairs, constant(WORDS, 16))
        high = builder.and_(pairs, constant(WORDS, 0xFFFF0000))
        return builder.bitcast(low, FLOATS), builder.bitcast(high, FLOATS)

    def _dot(
        self, total: ir.Value, a: tuple[ir.Value, ir.Value], b: tuple[ir.Value, ir.Value]
    ) -> ir.Value:
        for x, y in zip(a, b, strict=True):
            total = self._call(f"fmuladd.v{LANES}f32", FLOATS, x, y, total)
        return total
