"""A model's numbers in Numba, which has no bfloat16: it is read and written as uint16."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit, types
from numba.extending import intrinsic

from bros.workers.cpu import llvm

LOG2_E = np.float32(1.4426950408889634)
EXP_TERMS = (  # of a polynomial for 2**x, -0.5 <= x <= 0.5, the highest power's first
    1.5403530e-4,
    1.3333558e-3,
    9.6181291e-3,
    5.5504109e-2,
    2.4022651e-1,
    6.9314718e-1,
    1.0,
)


def bits_of(tensor: torch.Tensor) -> np.ndarray:
    """Return the tensor's memory as an array that Numba knows: bfloat16 as uint16."""
    if tensor.dtype is torch.bfloat16:
        tensor = tensor.view(torch.uint16)
    return tensor.numpy()


@intrinsic
def load(_: Any, x: Any) -> Any:
    """Return a float32 from a float32, or from the bits of a bfloat16."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if x is types.float32:
            return arguments[0]
        return llvm.widen(builder, arguments[0])

    return types.float32(x), generate


@intrinsic
def narrow(_: Any, x: Any, like: Any) -> Any:
    """Return the float32 `x` in the type of `like`: itself, or the bits of the nearest bfloat16."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if like is types.float32:
            return arguments[0]
        return llvm.narrow(builder, arguments[0])

    return like(types.float32, like), generate


@intrinsic
def float_of_bits(_: Any, bits: Any) -> Any:
    """Reinterpret a uint32 as float32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], llvm.FLOAT)

    return types.float32(types.uint32), generate


@njit(inline="always", fastmath=True)
def exp(x: Any) -> Any:
    """Return e**x for x <= 0, to float32 precision: a polynomial, and a power of 2 made of bits."""
    y = max(x * LOG2_E, np.float32(-126.0))
    whole = np.floor(y + np.float32(0.5))
    f = y - whole
    p = np.float32(EXP_TERMS[0])
    p = p * f + np.float32(EXP_TERMS[1])
    p = p * f + np.float32(EXP_TERMS[2])
    p = p * f + np.float32(EXP_TERMS[3])
    p = p * f + np.float32(EXP_TERMS[4])
    p = p * f + np.float32(EXP_TERMS[5])
    p = p * f + np.float32(EXP_TERMS[6])
    return p * float_of_bits(np.uint32(np.int32(whole) + np.int32(127)) << np.uint32(23))


@intrinsic
def bits_of_float(_: Any, x: Any) -> Any:
    """Reinterpret a float32 as uint32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], llvm.WORD)

    return types.uint32(types.float32), generate


@njit(inline="always")
def order(x: Any) -> Any:
    """Return an int32 that sorts as the float32 `x` does.

    LLVM finds the highest int32 in vectors, but not the highest float: 13 times as fast (measured).
    """
    bits = np.int32(bits_of_float(x))
    return np.int32(bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF)))


@njit(inline="always")
def log(x: Any) -> Any:
    """Return the natural logarithm of a normal float32 > 0, to float32 precision.

    With x = 2**n * m and m around 1, log(m) = 2 * atanh(s), s = (m - 1) / (m + 1), whose series in
    s**2 < 0.03 needs five terms.
    """
    bits = bits_of_float(x)
    # Above the mantissa of sqrt(1/2), m is below 1, so that it lies between that and sqrt(2).
    n = np.int32(bits - np.uint32(0x3F3504F3)) >> np.int32(23)
    m = float_of_bits(np.uint32(bits - (np.uint32(n) << np.uint32(23))))
    s = (m - np.float32(1)) / (m + np.float32(1))
    t = s * s
    p = np.float32(2.0 / 9.0)
    p = p * t + np.float32(2.0 / 7.0)
    p = p * t + np.float32(2.0 / 5.0)
    p = p * t + np.float32(2.0 / 3.0)
    p = p * t + np.float32(2.0)
    return np.float32(n) * np.float32(0.6931471805599453) + s * p
