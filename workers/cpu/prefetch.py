"""LLVM's prefetch, for kernels that know what they will read next."""

from __future__ import annotations

from llvmlite import ir
from numba.core import cgutils

LINE_BYTES = 64  # of the cache
INTO_L2 = 2  # the nearest cache is full of what is read now
BYTE, WORD = ir.IntType(8), ir.IntType(32)
READ, DATA = WORD(0), WORD(1)


def emit_prefetch(builder: ir.IRBuilder, at: ir.Value) -> None:
    """Ask for the line of the cache that holds `at`, any pointer; it may point anywhere."""
    byte = BYTE.as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [byte, WORD, WORD, WORD])
    prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
    builder.call(prefetch, [builder.bitcast(at, byte), READ, WORD(INTO_L2), DATA])
