"""Linear layers on CPU in bfloat16, with weights laid out once as oneDNN's kernels want them.

`torch.nn.functional.linear` brings the weights into that layout in every call. For one token or two
all that counts is how fast the weights are read, and row by row that is up to twice as fast. With
`int8`, few tokens read weights of half the size, and many the same rounded weights in bfloat16.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from numba import njit, prange

from bros.workers.bits import bits_of, load, narrow

Linear = Callable[[torch.Tensor], torch.Tensor]
Kind = Literal["packed", "rows", "int8"]
INT8_MAX_TOKENS = 4  # from there on bfloat16 is faster (measured)
ROWS_MAX_TOKENS = 2  # from there on oneDNN is faster (measured)


class PackedLinear(torch.nn.Module):
    """Computes what `linear` computes; the weights in their old layout are not kept."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        self._bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in) to (..., out), both bfloat16."""
        y: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self._weight, self._bias, "none", [], ""
        )
        return y


@njit(parallel=True, fastmath=True, cache=True, error_model="numpy")
def _few_tokens(x: Any, weight: Any, out: Any) -> None:
    """`out` (tokens, out) = `x` (tokens, in) times `weight` (out, in), all as bits."""
    tokens, size = x.shape
    wide = np.empty((tokens, size), np.float32)
    for i in range(tokens):
        for k in range(size):
            wide[i, k] = load(x[i, k])
    for n in prange(len(weight)):
        for i in range(tokens):
            total = np.float32(0)
            for k in range(size):
                total += wide[i, k] * load(weight[n, k])
            out[i, n] = narrow(total, out[i, n])


class RowsLinear(PackedLinear):
    """`PackedLinear` for many tokens; for few, the weights are kept as they were as well."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__(linear)
        self._rows = bits_of(linear.weight.detach().contiguous())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(tokens, in) to (tokens, out), both bfloat16."""
        if len(x) > ROWS_MAX_TOKENS:
            return super().forward(x)
        y = x.new_empty(len(x), len(self._rows))
        _few_tokens(bits_of(x.contiguous()), self._rows, bits_of(y))
        return y if self._bias is None else y + self._bias


class Int8Linear(torch.nn.Module):
    """Weights rounded to int8, with a scale for each output. Both layouts are kept."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach()
        self._scale = (weight.float().abs().amax(dim=1) / 127).clamp(min=1e-12).to(weight.dtype)
        scaled = weight.float() / self._scale.float()[:, None]
        self._weight = scaled.round().clamp(-127, 127).to(torch.int8)
        self._bias = None if linear.bias is None else linear.bias.detach()
        rounded = torch.nn.Linear(1, 1, bias=linear.bias is not None, device="meta")
        rounded.weight = torch.nn.Parameter(
            (self._weight.float() * self._scale.float()[:, None]).to(weight.dtype),
            requires_grad=False,
        )
        if linear.bias is not None:
            rounded.bias = linear.bias
        self._many = PackedLinear(rounded)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(tokens, in) to (tokens, out), both bfloat16."""
        if len(x) > INT8_MAX_TOKENS:
            many: torch.Tensor = self._many(x)
            return many
        y: torch.Tensor = torch.ops.aten._weight_int8pack_mm(x, self._weight, self._scale)
        return y if self._bias is None else y + self._bias


_KINDS: dict[Kind, Callable[[torch.nn.Linear], Linear]] = {
    "packed": PackedLinear,
    "rows": RowsLinear,
    "int8": Int8Linear,
}


def make_linear(linear: torch.nn.Linear, kind: Kind = "packed") -> Linear:
    """The fastest of this kind that computes `linear` here: with int8, nearly so."""
    return _KINDS[kind](linear) if can_pack(linear.weight.dtype) else linear


def pack_linears(model: torch.nn.Module) -> None:
    """Replace all linear layers of the model, in place."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is torch.nn.Linear:
                setattr(module, name, PackedLinear(child))


def can_pack(dtype: torch.dtype) -> bool:
    """Whether oneDNN has such kernels here. float32 stays as it is: to the bit, as a reference."""
    return dtype is torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
