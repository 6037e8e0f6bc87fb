"""Linear layers on CPU in bfloat16, with weights laid out once as oneDNN's kernels want them.

`torch.nn.functional.linear` brings the weights into that layout in every call. With `int8`, few
tokens read weights of half the size, and many the same rounded weights in bfloat16.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

Linear = Callable[[torch.Tensor], torch.Tensor]
INT8_MAX_TOKENS = 4  # from there on bfloat16 is faster (measured)


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


def make_linear(linear: torch.nn.Linear, quantize: str = "none") -> Linear:
    """The fastest that computes `linear` here: with int8, nearly so."""
    if not can_pack(linear.weight.dtype):
        return linear
    return Int8Linear(linear) if quantize == "int8" else PackedLinear(linear)


def pack_linears(model: torch.nn.Module) -> None:
    """Replace all linear layers of the model, in place."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is torch.nn.Linear:
                setattr(module, name, PackedLinear(child))


def can_pack(dtype: torch.dtype) -> bool:
    """Whether oneDNN has such kernels here. float32 stays as it is: to the bit, as a reference."""
    return dtype is torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
