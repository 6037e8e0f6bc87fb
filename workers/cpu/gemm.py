"""Products with weights in bfloat16 or int8 on CPUs.

oneDNN's kernels are made for many tokens: with the tens that an iteration has they lose time, and
without AVX-512 there are none for bfloat16 (`docs/design/executor.md`). Here weights lie in panels,
each of which is multiplied by tile after tile of tokens (`panel_code`).

A token's sums add up in the same order in every tile, so no bit depends on what it is batched with.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import get_num_threads, njit, prange, types
from numba.extending import intrinsic

from bros.workers.cpu.best_code import BEST_CODE
from bros.workers.cpu.bits import bits_of
from bros.workers.cpu.llvm import INDEX, WORD
from bros.workers.cpu.panel_code import PANEL

TASKS_PER_THREAD = 4
TILE = BEST_CODE.TILE  # tokens


def fits(weight: torch.Tensor) -> bool:
    """Return whether weights (outputs, inputs) can be cut into panels."""
    outputs, inputs = weight.shape
    return outputs % PANEL == 0 and inputs % BEST_CODE.DEPTH == 0


def to_panels(weight: torch.Tensor) -> np.ndarray:
    """Lay out weights (outputs, inputs), bfloat16 or int8, as (panels, pairs of inputs, PANEL, 2).

    bfloat16 becomes bits. Within a pair of inputs, the order is that of `BEST_CODE`.
    """
    outputs, inputs = weight.shape
    panels = weight.view(outputs // PANEL, PANEL, inputs // 2, 2).transpose(1, 2)
    return bits_of(BEST_CODE.arranged(panels.contiguous()).contiguous())


def multiply(
    x: torch.Tensor, panels: np.ndarray, scale: np.ndarray, dtype: torch.dtype = torch.bfloat16
) -> torch.Tensor:
    """Multiply `x` (tokens, inputs), bfloat16, by weights; return (tokens, outputs) of `dtype`.

    `dtype` is bfloat16 or float32. `scale` (outputs,), float32, multiplies the sums of int8
    weights; with bfloat16 it is not read.
    """
    out = x.new_empty(x.shape[0], len(panels) * PANEL, dtype=dtype)
    product(bits_of(x.contiguous()), panels, scale, bits_of(out), get_num_threads())
    return out


@njit(cache=True)
def product(x: Any, panels: Any, scale: Any, out: Any, threads: Any) -> None:
    """Do `multiply` on arrays of bits."""
    if len(x):
        tiles = -(-len(x) // TILE)
        groups = min(tiles, -(-TASKS_PER_THREAD * threads // len(panels)))
        _multiply(x, panels, scale, out, tiles, groups)


@njit(parallel=True, cache=True, error_model="numpy")
def _multiply(x: Any, panels: Any, scale: Any, out: Any, tiles: Any, groups: Any) -> None:
    """Share panels out among threads; if they are few, also tiles, in `groups`."""
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
    """Multiply `count` tokens, at most TILE, of `x` (tokens, inputs) from `first` by one panel."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def array(index: int) -> Any:
            kind = context.make_array(signature.args[index])
            return kind(context, builder, arguments[index])

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
        code.multiply(count, inputs, outputs, width)
        return context.get_dummy_value()

    index = types.int64
    return types.none(x, index, index, panels, index, scale, out), generate
