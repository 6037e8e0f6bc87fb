"""A Llama layer around its attention, in two calls: arrays are as `bits_of` gives them.

A layer has ten passes and products. Called from Python one by one, each would cost some 15
microseconds more.
"""

from __future__ import annotations

from typing import Any

from numba import njit

from bros.workers.cpu.fused import add_bias, add_norm, rotate, silu_times
from bros.workers.cpu.gemm import product


@njit(cache=True)
def _linear(x: Any, weights: Any, out: Any, threads: Any) -> None:
    """Multiply by `weights`: panels, scale and bias."""
    panels, scale, bias = weights
    product(x, panels, scale, out, threads)
    add_bias(out, bias)


@njit(cache=True)
def before_attention(
    x: Any,  # (tokens, hidden): what is added to the residual
    stream: Any,  # (tokens, hidden), float32: the residual
    norm: Any,  # (hidden,)
    eps: Any,
    normed: Any,  # (tokens, hidden), scratch
    qkv: Any,  # weights
    cos: Any,  # (tokens, half a head)
    sin: Any,
    rotated: Any,  # heads of Q and K
    out: Any,  # (tokens, heads of Q, K and V * head_dim)
    threads: Any,
) -> None:
    """Compute Q, K and V of all tokens, with positions in Q and K."""
    add_norm(x, stream, norm, eps, normed, threads)
    _linear(normed, qkv, out, threads)
    tokens, size = out.shape
    head_dim = 2 * cos.shape[1]
    heads = out.reshape((tokens, size // head_dim, head_dim))
    rotate(heads[:, :rotated], cos, sin, threads)


@njit(cache=True)
def after_attention(
    attended: Any,  # (tokens, heads * head_dim)
    stream: Any,
    norm: Any,
    eps: Any,
    normed: Any,
    o: Any,  # weights, as those of gate and up together, and of down
    gate_up: Any,
    down: Any,
    out: Any,  # (tokens, hidden): what the next layer adds to the residual
    both: Any,  # (tokens, 2 * intermediate), scratch
    active: Any,  # (tokens, intermediate), scratch
    threads: Any,
) -> None:
    """Compute the output product and the MLP."""
    _linear(attended, o, out, threads)
    add_norm(out, stream, norm, eps, normed, threads)
    _linear(normed, gate_up, both, threads)
    silu_times(both, active, threads)
    _linear(active, down, out, threads)
