"""Pieces of LLVM code that several kernels use: constants, vectors, bfloat16, intrinsics, prefetch.

Each function adds instructions at the builder's position. What works on one number works on a
vector of them as well.
"""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir
from numba.core import cgutils

BYTE, HALF, WORD, INDEX = (ir.IntType(bits) for bits in (8, 16, 32, 64))
FLOAT = ir.FloatType()
LINE_BYTES = 64  # of the cache
READ, INTO_L2, DATA = WORD(0), WORD(2), WORD(1)  # the nearest cache is full of what is read now


def constant(kind: ir.Type, number: float) -> ir.Value:
    """Return `number` as `kind`, in every lane if `kind` is a vector."""
    is_vector = isinstance(kind, ir.VectorType)
    return ir.Constant(kind, [number] * kind.count if is_vector else number)


def splat(builder: ir.IRBuilder, x: ir.Value, lanes: int) -> ir.Value:
    """Return a vector with the number `x` in every lane."""
    kind = ir.VectorType(x.type, lanes)
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), x, WORD(0))
    order = ir.Constant(ir.VectorType(WORD, lanes), [0] * lanes)
    return builder.shuffle_vector(first, first, order)


def call(
    builder: ir.IRBuilder,
    name: str,
    result: ir.Type,
    *arguments: ir.Value,
    fastmath: Sequence[str] = (),
) -> ir.Value:
    """Call the LLVM intrinsic `llvm.<name>`."""
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}")
    return builder.call(function, arguments, fastmath=fastmath)


def widen(builder: ir.IRBuilder, bits: ir.Value) -> ir.Value:
    """Return the float32 of the bits of a bfloat16 (uint16), which are its upper half."""
    words = _like(bits.type, WORD)
    wide = builder.zext(bits, words)
    return builder.bitcast(builder.shl(wide, constant(words, 16)), _like(bits.type, FLOAT))


def narrow(builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """Return the bits (uint16) of the bfloat16 nearest to the float32 `x`; ties go to even."""
    words = _like(x.type, WORD)
    bits = builder.bitcast(x, words)
    odd = builder.and_(builder.lshr(bits, constant(words, 16)), constant(words, 1))
    rounded = builder.add(bits, builder.add(odd, constant(words, 0x7FFF)))
    return builder.trunc(builder.lshr(rounded, constant(words, 16)), _like(x.type, HALF))


def _like(kind: ir.Type, element: ir.Type) -> ir.Type:
    """Return a type with as many lanes as `kind`, each of type `element`."""
    return ir.VectorType(element, kind.count) if isinstance(kind, ir.VectorType) else element


def prefetch(builder: ir.IRBuilder, at: ir.Value) -> None:
    """Ask for the cache line that holds `at`, any pointer; it may point anywhere."""
    byte = BYTE.as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [byte, WORD, WORD, WORD])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
    builder.call(function, [builder.bitcast(at, byte), READ, INTO_L2, DATA])
