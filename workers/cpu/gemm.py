"""Products with weights in bfloat16 or int8 on CPUs.

oneDNN's kernels are made for many tokens: with the tens that an iteration has, a third of their
time is lost, and without AVX-512 it has none for bfloat16 (`docs/design/executor.md`). Here weights
lie in panels, each of which meets tile after tile of tokens (`panel_code`).

A token's sums add up in the same order in every tile: what it is batched with changes no bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import get_num_threads, njit, prange, types
from numba.extending import intrinsic

from bros.workers.cpu.bits import bits_of
from bros.workers.cpu.llvm import INDEX, WORD
from bros.workers.cpu.panel_code import BEST_CODE, PANEL, TILE

TASKS_PER_THREAD = 4


def fits(weight: torch.Tensor) -> bool:
    """Whether weights (outputs, inputs) can be cut into panels."""
    outputs, inputs = weight.shape
    return outputs % PANEL == 0 and inputs % 2 == 0


def to_panels(weight: torch.Tensor) -> np.ndarray:
    """Weights (outputs, inputs), bfloat16 as bits or int8: (panels, pairs of inputs, PANEL, 2).

    The order within a pair of inputs is the code's.
    """
    outputs, inputs = weight.shape
    panels = weight.view(outputs // PANEL, PANEL, inputs // 2, 2).transpose(1, 2)
    return bits_of(BEST_CODE.arranged(panels.contiguous()).contiguous())


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
            multiply_panel(
                x, first, tokens * (tile + 1) // tiles - first, panels, panel, scale, out
            )


@intrinsic
def multiply_panel(
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
        code = BEST_CODE(builder, pairs, weights, builder.gep(array(5).data, [output]))
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
