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
from bros.workers.cpu.panel_code import FLOATS, HALVES, LANES, PAIRS, PANEL, LookupCode, has_feature

ROWS, ROW_BYTES = 16, 64  # of a tile register; so it holds 16 float32 or pairs of bfloat16
DEPTH = 16  # pairs of inputs in a tile
GROUP = 2 * ROWS  # tokens
MATRIX_TILE = 16 * GROUP  # tokens
STEP_WEIGHTS = DEPTH * 2 * PANEL  # numbers
MANY = 4  # groups
BLOCK = 6  # steps whose weights, 12 KiB, stay in the nearest cache beside inputs and sums
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
    """Code for one panel and up to `TILE` tokens.

    The panel is cut into blocks, each of which stays in the nearest cache while all full groups of
    `GROUP` tokens are multiplied by it. Between blocks, sums are kept as float32, which is exact.
    The next panel is fetched into the second cache meanwhile. With fewer than `MANY` groups,
    neither pays.
    """

    TILE = MATRIX_TILE
    DEPTH = 2 * DEPTH

    def multiply(
        self, count: ir.Value, inputs: ir.Value, outputs: ir.Value, width: ir.Value
    ) -> None:
        """See `PanelCode.multiply`."""
        builder = self._builder
        is_one = builder.icmp_unsigned("<=", count, INDEX(GROUP))
        groups = builder.select(is_one, INDEX(0), builder.udiv(count, INDEX(GROUP)))
        with builder.if_then(builder.icmp_unsigned("!=", groups, INDEX(0))):
            self._multiply_groups(groups, inputs, outputs, width)
        first = builder.mul(groups, INDEX(GROUP))
        inputs = self._from_row(inputs, self._pairs, first)
        outputs = self._from_row(outputs, width, first)
        rest = builder.sub(count, first)
        full, more = INDEX(ROWS), builder.sub(rest, INDEX(ROWS))
        with builder.if_then(builder.icmp_unsigned("!=", rest, INDEX(0))):
            few = builder.icmp_unsigned("<=", rest, full)
            with builder.if_else(few) as (then, otherwise):
                with then:
                    self._multiply_rest([rest], rest, inputs, outputs, width)
                with otherwise:
                    self._multiply_rest([full, more], rest, inputs, outputs, width)
        self._tile("tilerelease")

    def _multiply_groups(
        self, groups: ir.Value, inputs: ir.Value, outputs: ir.Value, width: ir.Value
    ) -> None:
        """Multiply `groups` times `GROUP` tokens, by one block of the panel after the other."""
        builder = self._builder
        self._configure([INDEX(ROWS)] * 2)
        sums = cgutils.alloca_once(builder, llvm.FLOAT, MATRIX_TILE * PANEL)
        scratch = cgutils.alloca_once(builder, HALF, BLOCK * STEP_WEIGHTS)
        steps = builder.udiv(self._pairs, INDEX(DEPTH))
        are_many = builder.icmp_unsigned(">=", groups, INDEX(MANY))
        blocks = builder.udiv(builder.add(steps, INDEX(BLOCK - 1)), INDEX(BLOCK))
        if not self._is_int8:  # int8 has room for no more than a block of bfloat16
            blocks = builder.select(are_many, blocks, INDEX(1))
        with cgutils.for_range(builder, blocks) as block:
            first = builder.udiv(builder.mul(block.index, steps), blocks)
            after = builder.add(block.index, INDEX(1))
            number = builder.sub(builder.udiv(builder.mul(after, steps), blocks), first)
            weights = self._block_from(first, number, scratch)
            is_first = builder.icmp_unsigned("==", block.index, INDEX(0))
            is_last = builder.icmp_unsigned("==", after, blocks)
            with cgutils.for_range(builder, groups) as group:
                token = builder.mul(group.index, INDEX(GROUP))
                own = self._from_row(sums, INDEX(PANEL), token)
                with builder.if_else(is_first) as (then, otherwise):
                    with then:
                        self._clear(2)
                    with otherwise:
                        self._move("tileloadd64", 2, own)
                rows = self._from_row(inputs, self._pairs, token)
                place = builder.add(builder.mul(block.index, groups), group.index)
                with builder.if_then(are_many):
                    self._fetch_next_panel(place, builder.mul(blocks, groups))
                with cgutils.for_range(builder, number) as step:
                    pair = builder.mul(builder.add(first, step.index), INDEX(DEPTH))
                    at = self._from_row(weights, INDEX(STEP_WEIGHTS), step.index)
                    self._step(2, builder.gep(rows, [pair]), at)
                self._move("tilestored64", 2, own)
                with builder.if_then(is_last):
                    self._finish(INDEX(GROUP), own, self._from_row(outputs, width, token), width)

    def _multiply_rest(
        self,
        counts: Sequence[ir.Value],  # tokens of each half group
        count: ir.Value,  # of all
        inputs: ir.Value,
        outputs: ir.Value,
        width: ir.Value,
    ) -> None:
        """Multiply less than a group by the panel, which is read only once."""
        builder = self._builder
        self._configure(counts)
        sums = cgutils.alloca_once(builder, llvm.FLOAT, GROUP * PANEL)
        scratch = cgutils.alloca_once(builder, HALF, STEP_WEIGHTS)
        self._clear(len(counts))
        with cgutils.for_range(builder, builder.udiv(self._pairs, INDEX(DEPTH))) as step:
            weights = self._weights_from(step.index, scratch)
            pair = builder.mul(step.index, INDEX(DEPTH))
            self._step(len(counts), builder.gep(inputs, [pair]), weights)
        self._move("tilestored64", len(counts), sums)
        self._finish(count, sums, outputs, width)

    def _step(self, parts: int, inputs: ir.Value, weights: ir.Value) -> None:
        """Add the products of `DEPTH` pairs to the sums. `parts`: half groups."""
        builder = self._builder
        for half in range(HALVES):
            at = builder.gep(weights, [INDEX(half * 2 * LANES)])
            self._tile("tileloadd64", BYTE(WEIGHTS + half), _bytes(builder, at), ROW_STRIDE)
        stride = builder.mul(self._pairs, INDEX(4))
        for part in range(parts):
            at = self._from_row(inputs, self._pairs, INDEX(part * ROWS))
            self._tile("tileloadd64", BYTE(INPUTS + part), _bytes(builder, at), stride)
        for part in range(parts):
            for half in range(HALVES):
                registers = BYTE(INPUTS + part), BYTE(WEIGHTS + half)
                self._tile("tdpbf16ps", _register(SUMS, part, half), *registers)

    def _clear(self, parts: int) -> None:
        for part in range(parts):
            for half in range(HALVES):
                self._tile("tilezero", _register(SUMS, part, half))

    def _move(self, instruction: str, parts: int, sums: ir.Value) -> None:
        """Load the registers of sums from `sums` (tokens, PANEL), or store them there."""
        builder = self._builder
        for part in range(parts):
            for half in range(HALVES):
                at = builder.gep(sums, [INDEX(part * ROWS * PANEL + half * LANES)])
                register = _register(SUMS, part, half)
                self._tile(instruction, register, _bytes(builder, at), ROW_STRIDE)

    def _finish(self, count: ir.Value, sums: ir.Value, outputs: ir.Value, width: ir.Value) -> None:
        """Write `count` rows of sums to the outputs."""
        builder = self._builder
        with cgutils.for_range(builder, count) as row:
            own = self._from_row(sums, INDEX(PANEL), row.index)
            to = self._from_row(outputs, width, row.index)
            totals = [
                self._scaled(self._load(builder.gep(own, [INDEX(LANES * half)]), FLOATS, 4), half)
                for half in range(HALVES)
            ]
            self._write_row(totals, to)

    def _write_row(self, totals: Sequence[ir.Value], to: ir.Value) -> None:
        builder = self._builder
        if to.type.pointee is HALF:
            both = self._call("x86.avx512bf16.cvtne2ps2bf16.512", PAIRS, *reversed(totals))
            builder.store(both, builder.bitcast(to, PAIRS.as_pointer()), align=2)
            return
        for half, total in enumerate(totals):
            at = builder.gep(to, [INDEX(LANES * half)])
            builder.store(total, builder.bitcast(at, FLOATS.as_pointer()), align=4)

    def _fetch_next_panel(self, part: ir.Value, parts: ir.Value) -> None:
        """Prefetch one of equal parts of the next panel."""
        builder = self._builder
        pair_bytes = 2 * PANEL * (1 if self._is_int8 else 2)
        lines = builder.mul(self._pairs, INDEX(pair_bytes // llvm.LINE_BYTES))
        first = builder.udiv(builder.mul(part, lines), parts)
        last = builder.udiv(builder.mul(builder.add(part, INDEX(1)), lines), parts)
        line = INDEX(llvm.LINE_BYTES)
        panel = self._from_row(_bytes(builder, self._weights), line, lines)
        with cgutils.for_range(builder, last, start=first) as at:
            llvm.prefetch(builder, self._from_row(panel, line, at.index))

    def _from_row(self, start: ir.Value, size: ir.Value, number: ir.Value) -> ir.Value:
        return self._builder.gep(start, [self._builder.mul(size, number)])

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

    def _block_from(self, step: ir.Value, steps: ir.Value, scratch: ir.Value) -> ir.Value:
        """Return where the weights of `steps` steps are as bfloat16: `scratch` for int8."""
        builder = self._builder
        if not self._is_int8:
            return self._from_row(self._weights, INDEX(STEP_WEIGHTS), step)
        with cgutils.for_range(builder, steps) as loop:
            to = self._from_row(scratch, INDEX(STEP_WEIGHTS), loop.index)
            self._weights_from(builder.add(step, loop.index), to)
        return scratch

    def _weights_from(self, step: ir.Value, scratch: ir.Value) -> ir.Value:
        """Return where the weights of a step are as bfloat16: `scratch` for int8."""
        builder = self._builder
        if not self._is_int8:
            return self._from_row(self._weights, INDEX(STEP_WEIGHTS), step)
        pair = builder.mul(step, INDEX(DEPTH))
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
