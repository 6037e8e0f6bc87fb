"""Gumbel noise that draws tokens: a function of a row's seed, the position and a token's id.

It is counter-based: SplitMix64 makes a 64-bit key of seed and position, and murmur3's 32-bit
finaliser mixes the id with that key. So noise can be made for some ids alone, and on any device.
"""

from __future__ import annotations

import torch

MASK_64 = 2**64 - 1
ODD, SECOND, THIRD = 0x9E3779B1, 0x85EBCA6B, 0xC2B2AE35


def key_of(seed: int, position: int) -> tuple[int, int]:
    """Return the two halves of the key as signed 32-bit numbers."""
    key = _mix(_mix(seed & MASK_64) ^ position)
    return _int32(key), _int32(key >> 32)


def gumbel(keys: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Return noise (rows, tokens) of `ids` (rows or 1, tokens) under `keys` (rows, 2), both int32.

    int32 products wrap, as they should.
    """
    x = ids * _int32(ODD) + keys[:, :1]
    x = (x ^ _shift(x, 16)) * _int32(SECOND) + keys[:, 1:]
    x = (x ^ _shift(x, 13)) * _int32(THIRD)
    x = x ^ _shift(x, 16)
    # 31 bits. A float32 keeps the precision of small numbers, and those win races.
    uniform = ((x & 0x7FFFFFFF).float() + 0.5) / 2**31
    return -torch.log(-torch.log1p(-uniform))


def _shift(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Return the logical right shift of int32."""
    return (x >> bits) & ((1 << (32 - bits)) - 1)


def _int32(x: int) -> int:
    """Return the low 32 bits of x as a signed number."""
    return ((x & 0xFFFFFFFF) ^ 0x80000000) - 0x80000000


def _mix(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) & MASK_64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK_64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK_64
    return x ^ (x >> 31)
