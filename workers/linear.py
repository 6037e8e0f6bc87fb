"""Linear layers on CPU in bfloat16, with weights laid out once as oneDNN's kernels want them.

`torch.nn.functional.linear` brings the weights into that layout in every call.
"""

from __future__ import annotations

import torch


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


def pack_linears(model: torch.nn.Module) -> None:
    """Replace all linear layers of the model, in place."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is torch.nn.Linear:
                setattr(module, name, PackedLinear(child))


def can_pack(dtype: torch.dtype) -> bool:
    """Whether oneDNN has such kernels here. float32 stays as it is: to the bit, as a reference."""
    return dtype is torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
