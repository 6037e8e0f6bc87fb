"""Vectors of float32 in LLVM code: what `block_step` computes with."""

from __future__ import annotations

from llvmlite import ir

from bros.workers.cpu import llvm
from bros.workers.cpu.bits import EXP_TERMS
from bros.workers.cpu.llvm import FLOAT, WORD

FAST = ("fast",)
LOG2_E = 1.4426950408889634


class Vectors:
    """Builds code on vectors of `size` float32."""

    def __init__(self, builder: ir.IRBuilder, size: int) -> None:
        self._builder = builder
        self.size = size
        self.type = ir.VectorType(FLOAT, size)
        self._words = ir.VectorType(WORD, size)

    def constant(self, value: float) -> ir.Value:
        return llvm.constant(self.type, value)

    def lanes(self) -> ir.Value:
        """Return the words 0, 1, 2, ..."""
        return ir.Constant(self._words, list(range(self.size)))

    def splat(self, x: ir.Value) -> ir.Value:
        """Return a vector with the number `x` in every lane."""
        return llvm.splat(self._builder, x, self.size)

    def load(self, at: ir.Value) -> ir.Value:
        """Load from a pointer to float32, or to bfloat16 as uint16."""
        builder, element = self._builder, at.type.pointee
        kind = ir.VectorType(element, self.size)
        source = builder.bitcast(at, kind.as_pointer())
        value = builder.load(source, align=4 if element is FLOAT else 2)
        return value if element is FLOAT else llvm.widen(builder, value)

    def store(self, value: ir.Value, at: ir.Value) -> None:
        target = self._builder.bitcast(at, self.type.as_pointer())
        self._builder.store(value, target, align=4)

    def multiply(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self._builder.fmul(a, b, flags=FAST)

    def multiply_add(self, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
        """Return a * b + c."""
        return self._builder.fadd(self.multiply(a, b), c, flags=FAST)

    def maximum(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self._builder.select(self._builder.fcmp_ordered(">", a, b), a, b)

    def reduce(self, name: str, value: ir.Value, *start: ir.Value) -> ir.Value:
        """Reduce all lanes to one number: by `fmax`, or by `fadd` from `start`."""
        return self._call(f"vector.reduce.{name}", FLOAT, *start, value)

    def _call(self, name: str, result: ir.Type, *arguments: ir.Value) -> ir.Value:
        name = f"{name}.v{self.size}f32"
        return llvm.call(self._builder, name, result, *arguments, fastmath=FAST)

    def exp(self, x: ir.Value) -> ir.Value:
        """Return e**x for x <= 0, to float32 precision, as `bits.exp` does."""
        builder = self._builder
        y = self.maximum(self.multiply(x, self.constant(LOG2_E)), self.constant(-126.0))
        half_up = builder.fadd(y, self.constant(0.5), flags=FAST)
        whole = self._call("floor", self.type, half_up)
        fraction = builder.fsub(y, whole, flags=FAST)
        result = self.constant(EXP_TERMS[0])
        for term in EXP_TERMS[1:]:
            result = self.multiply_add(result, fraction, self.constant(term))
        power = builder.add(builder.fptosi(whole, self._words), llvm.constant(self._words, 127))
        power = builder.shl(power, llvm.constant(self._words, 23))
        return self.multiply(result, builder.bitcast(power, self.type))
