"""What a Llama layer does between its products, in one pass each, in Numba.

Arrays are as `bits_of` gives them; the residual stream is float32. Few tokens are done in the
calling thread, many are shared out among `threads`. That number is an argument because a function
that asks Numba for it cannot be cached on disk.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, prange

from bros.workers.cpu.bits import exp, load, narrow

PARALLEL_MIN = 16  # with so many tokens, waking a thread pays (measured)


@njit(cache=True, fastmath=True, error_model="numpy")
def _add_norm(x: Any, stream: Any, weight: Any, eps: Any, out: Any, begin: Any, end: Any) -> None:
    size = stream.shape[1]
    for i in range(begin, end):
        total = np.float32(0)
        for d in range(size):
            value = stream[i, d] + load(x[i, d])
            stream[i, d] = value
            total += value * value
        scale = np.float32(1) / np.sqrt(total / np.float32(size) + eps)
        for d in range(size):
            out[i, d] = narrow(stream[i, d] * scale * load(weight[d]), out[i, d])


# Without fast mathematics: which of two products is rounded before a difference of both, LLVM would
# choose anew for each caller, and a token's bits would depend on how many others there are.
@njit(cache=True)
def _rotate(x: Any, cos: Any, sin: Any, begin: Any, end: Any) -> None:
    half = x.shape[2] // 2
    for i in range(begin, end):
        for head in range(x.shape[1]):
            for d in range(half):
                low, high = load(x[i, head, d]), load(x[i, head, d + half])
                x[i, head, d] = narrow(low * cos[i, d] - high * sin[i, d], x[i, head, d])
                x[i, head, d + half] = narrow(high * cos[i, d] + low * sin[i, d], x[i, head, d])


@njit(cache=True, fastmath=True, error_model="numpy")
def _silu_times(gate_up: Any, out: Any, begin: Any, end: Any) -> None:
    size = out.shape[1]
    for i in range(begin, end):
        for d in range(size):
            gate = load(gate_up[i, d])
            small = exp(-abs(gate))
            share = (np.float32(1) if gate >= 0 else small) / (np.float32(1) + small)
            out[i, d] = narrow(gate * share * load(gate_up[i, d + size]), out[i, d])


@njit(cache=True, parallel=True)
def _add_norm_shared(x: Any, stream: Any, weight: Any, eps: Any, out: Any, parts: Any) -> None:
    n = len(x)
    for part in prange(parts):
        _add_norm(x, stream, weight, eps, out, n * part // parts, n * (part + 1) // parts)


@njit(cache=True, parallel=True)
def _rotate_shared(x: Any, cos: Any, sin: Any, parts: Any) -> None:
    n = len(x)
    for part in prange(parts):
        _rotate(x, cos, sin, n * part // parts, n * (part + 1) // parts)


@njit(cache=True, parallel=True)
def _silu_times_shared(gate_up: Any, out: Any, parts: Any) -> None:
    n = len(out)
    for part in prange(parts):
        _silu_times(gate_up, out, n * part // parts, n * (part + 1) // parts)


@njit(cache=True)
def add_norm(x: Any, stream: Any, weight: Any, eps: Any, out: Any, threads: Any) -> None:
    """Add `x` to the residual `stream`, and write its RMS norm times `weight` to `out`."""
    if len(x) < PARALLEL_MIN:
        _add_norm(x, stream, weight, eps, out, 0, len(x))
    else:
        _add_norm_shared(x, stream, weight, eps, out, threads)


@njit(cache=True)
def rotate(x: Any, cos: Any, sin: Any, threads: Any) -> None:
    """Apply the rotary embedding to `x` (tokens, heads, head_dim); `cos`, `sin`: (tokens, half)."""
    if len(x) < PARALLEL_MIN:
        _rotate(x, cos, sin, 0, len(x))
    else:
        _rotate_shared(x, cos, sin, threads)


@njit(cache=True)
def silu_times(gate_up: Any, out: Any, threads: Any) -> None:
    """Write silu(gate) * up of `gate_up` (tokens, 2 * size) to `out` (tokens, size)."""
    if len(out) < PARALLEL_MIN:
        _silu_times(gate_up, out, 0, len(out))
    else:
        _silu_times_shared(gate_up, out, threads)


@njit(cache=True, fastmath=True)
def add_bias(x: Any, bias: Any) -> None:
    """Add `bias` (size,) to each token of `x` (tokens, size); do nothing if it is empty."""
    for i in range(len(x) if len(bias) else 0):
        for d in range(len(bias)):
            x[i, d] = narrow(load(x[i, d]) + load(bias[d]), x[i, d])
