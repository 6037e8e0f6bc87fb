"""Machine code for CPUs with a matrix unit, Intel's AMX: a tile of tokens times a panel.

A tile register holds 16 rows of 64 bytes. Four of them hold the sums of 32 tokens and 32 outputs,
two the tokens' inputs, and two the weights, for which a panel's layout is already the one that the
unit wants. int8 weights are made bfloat16 on the stack. A token's sums add up in the same order for
any number of tokens.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

from llvmlite import ir
from numba.core import cgutils

from bros.workers.cpu import llvm
from bros.workers.cpu.llvm import BYTE, HALF, INDEX
from bros.workers.cpu.panel_code import FLOATS, HALVES, LANES, PANEL, LookupCode, has_feature

ROWS, ROW_BYTES = 16, 64  # of a tile register; so it holds 16 float32 or pairs of bfloat16
DEPTH = 16  # pairs of inputs in a tile
MATRIX_TILE = 2 * ROWS  # tokens
SUMS, INPUTS, WEIGHTS = (0, 4, 6)  # the first register of each kind
ROW_STRIDE = INDEX(4 * PANEL)  # bytes from pair to pair of a panel, and from token to token of sums
COLUMNS_AT, ROWS_AT, CONFIG_BYTES = 16, 48, 64  # in the configuration that the unit is given

# arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA): Linux gives the registers on request only.
_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA = 158, 0x1023, 18


def may_use_matrix_unit() -> bool:
    """Ask Linux for the matrix unit; return whether there is one and this process may use it."""
    if not (has_feature("amx-bf16") and has_feature("avx512vbmi")):
        return False
    syscall = ctypes.CDLL(None).syscall
    return int(syscall(_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA)) == 0


class MatrixCode(LookupCode):
    """Code for one panel and up to `MATRIX_TILE` tokens.

    Weights are not prefetched: the CPU does that itself, and as fast (measured).
    """

    TILE = MATRIX_TILE
    DEPTH = 2 * DEPTH

    def multiply(
        self, count: ir.Value, inputs: ir.Value, outputs: ir.Value, width: ir.Value
    ) -> None:
        """See `PanelCode.multiply`."""
        builder = self._builder
        sums = cgutils.alloca_once(builder, llvm.FLOAT, MATRIX_TILE * PANEL)
        few = builder.icmp_unsigned("<=", count, INDEX(ROWS))
        with builder.if_else(few) as (then, otherwise):
            with then:
                self._multiply(inputs, [count], sums)
            with otherwise:
                self._multiply(inputs, [INDEX(ROWS), builder.sub(count, INDEX(ROWS))], sums)
        with cgutils.for_range(builder, count) as row:
            for half in range(HALVES):
                column = INDEX(LANES * half)
                at = builder.add(builder.mul(row.index, INDEX(PANEL)), column)
                total = self._load(builder.gep(sums, [at]), FLOATS, 4)
                to = builder.add(builder.mul(row.index, width), column)
                self._store(total, half, builder.gep(outputs, [to]))

    def _multiply(self, inputs: ir.Value, counts: Sequence[ir.Value], sums: ir.Value) -> None:
        """Write products to `sums` (tokens, PANEL). `counts`: tokens of each group of `ROWS`."""
        builder = self._builder
        self._configure(counts)
        groups = range(len(counts))
        for group in groups:
            for half in range(HALVES):
                self._tile("tilezero", _register(SUMS, group, half))
        stride = builder.mul(self._pairs, INDEX(4))
        scratch = cgutils.alloca_once(builder, HALF, DEPTH * 2 * PANEL)
        with cgutils.for_range(builder, builder.udiv(self._pairs, INDEX(DEPTH))) as loop:
            first = builder.mul(loop.index, INDEX(DEPTH))
            weights = self._weights_from(first, scratch)
            for half in range(HALVES):
                at = builder.gep(weights, [INDEX(half * 2 * LANES)])
                self._tile("tileloadd64", BYTE(WEIGHTS + half), _bytes(builder, at), ROW_STRIDE)
            for group in groups:
                token = builder.mul(self._pairs, INDEX(group * ROWS))
                at = builder.gep(inputs, [builder.add(token, first)])
                self._tile("tileloadd64", BYTE(INPUTS + group), _bytes(builder, at), stride)
            for group in groups:
                for half in range(HALVES):
                    registers = BYTE(INPUTS + group), BYTE(WEIGHTS + half)
                    self._tile("tdpbf16ps", _register(SUMS, group, half), *registers)
        for group in groups:
            for half in range(HALVES):
                at = builder.gep(sums, [INDEX(group * ROWS * PANEL + half * LANES)])
                to = _bytes(builder, at)
                self._tile("tilestored64", _register(SUMS, group, half), to, ROW_STRIDE)
        self._tile("tilerelease")

    def _configure(self, counts: Sequence[ir.Value]) -> None:
        """Tell the unit how many rows each register has, and that all rows are full."""
        builder = self._builder
        config = cgutils.alloca_once(builder, BYTE, CONFIG_BYTES)
        builder.store(ir.Constant(ir.ArrayType(BYTE, CONFIG_BYTES), None), _whole(builder, config))
        builder.store(BYTE(1), config)
        rows = {WEIGHTS + half: BYTE(DEPTH) for half in range(HALVES)}
        for group, count in enumerate(counts):
            of_group = builder.trunc(count, BYTE)
            rows[INPUTS + group] = of_group
            rows |= {SUMS + HALVES * group + half: of_group for half in range(HALVES)}
        for register, number in rows.items():
            column = builder.gep(config, [INDEX(COLUMNS_AT + 2 * register)])
            builder.store(BYTE(ROW_BYTES), column)
            builder.store(number, builder.gep(config, [INDEX(ROWS_AT + register)]))
        self._tile("ldtilecfg", config)

    def _weights_from(self, pair: ir.Value, scratch: ir.Value) -> ir.Value:
        """Return where the weights of `DEPTH` pairs are as bfloat16: `scratch` for int8."""
        builder = self._builder
        if not self._is_int8:
            return builder.gep(self._weights, [builder.mul(pair, INDEX(2 * PANEL))])
        for row in range(DEPTH):
            halves = self._halves_of(builder.add(pair, INDEX(row)))
            for half, values in enumerate(halves):
                at = builder.gep(scratch, [INDEX((row * HALVES + half) * 2 * LANES)])
                builder.store(values, builder.bitcast(at, values.type.as_pointer()), align=2)
        return scratch

    def _tile(self, name: str, *arguments: ir.Value) -> None:
        self._call(f"x86.{name}", ir.VoidType(), *arguments)


def _register(first: int, group: int, half: int) -> ir.Value:
    return BYTE(first + HALVES * group + half)


def _bytes(builder: ir.IRBuilder, at: ir.Value) -> ir.Value:
    return builder.bitcast(at, BYTE.as_pointer())


def _whole(builder: ir.IRBuilder, config: ir.Value) -> ir.Value:
    return builder.bitcast(config, ir.ArrayType(BYTE, CONFIG_BYTES).as_pointer())
