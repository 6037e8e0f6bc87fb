"""Attention on CUDA with the FlashAttention that torch brings along: nothing to build or find.

It computes a prompt chunk among its own fresh keys, which lie in order in the batch and not in
blocks. Triton's kernel does decodes, and what came before a chunk, in blocks of both directions.
The two parts of a chunk are merged by log-sum-exp.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.attention.varlen import AuxRequest, varlen_attn

from bros.workers.attention.device_pool import DevicePool
from bros.workers.attention.triton_paged import TritonAttention

LN_2 = math.log(2)
CAUSAL = (-1, 0)  # a window: all keys before, none after
MAX_HEAD_DIM = 256
MIN_CAPABILITY = (8, 0)

Varlen = Callable[..., Any]  # as torch.nn.attention.varlen.varlen_attn


def flash_obstacle(dtype: torch.dtype, head_dim: int) -> str | None:
    """Return why FlashAttention cannot be used on the current device; None if it can."""
    if dtype not in (torch.bfloat16, torch.float16):
        return f"it has no {dtype}"
    if head_dim > MAX_HEAD_DIM or head_dim % 8:
        return f"it has no heads of {head_dim}"
    if not torch.backends.cuda.is_flash_attention_available():
        return "this build of torch is without it"
    if torch.cuda.get_device_capability() < MIN_CAPABILITY:
        return f"{torch.cuda.get_device_name()} is too old for it"
    return None


class FlashAttention(TritonAttention):
    """See `TritonAttention`. Batches must have prompts apart from tiles (`Grid.apart`)."""

    def __init__(self, pool: DevicePool, varlen: Varlen = varlen_attn) -> None:
        super().__init__(pool)
        self._varlen = varlen

    def __call__(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float
    ) -> torch.Tensor:
        self.store(layer, k, v)
        out, lse = self.attend(layer, q, scale)
        prompts = self._ready.prompts
        if prompts is None:
            return out
        at = prompts.tokens
        own, own_lse = self._varlen(
            *(q[at], k[at], v[at]),
            *(prompts.offsets, prompts.offsets, prompts.longest, prompts.longest),
            scale=scale,
            window_size=CAUSAL,
            enable_gqa=True,
            return_aux=AuxRequest(lse=True),
        )
        out[at] = merge(out[at], lse[at] * LN_2, own, own_lse.T)
        return out


def merge(
    one: torch.Tensor, one_lse: torch.Tensor, other: torch.Tensor, other_lse: torch.Tensor
) -> torch.Tensor:
    """Return attention over the keys of both parts (tokens, heads, head_dim).

    `one_lse`, `other_lse` (tokens, heads): natural logarithms of each query's sum of weights.
    """
    share = torch.sigmoid(other_lse - one_lse)[..., None]
    return torch.lerp(one.float(), other.float(), share).to(one.dtype)
