"""Linear layers on CPU in bfloat16, with weights laid out once as their kernel wants them.

`torch.nn.functional.linear` brings the weights into such a layout in every call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch

from bros.workers.cpu import gemm
from bros.workers.cpu.bits import bits_of
from bros.workers.cpu.fused import add_bias
from bros.workers.cpu.panel_code import TILE, has_matrix_unit

Linear = Callable[[torch.Tensor], torch.Tensor]
Kind = Literal["packed", "panels", "both", "int8"]
BOTH_MAX_BYTES = 2**30  # of weights, up to which a second layout of them costs no one's memory


class PackedLinear(torch.nn.Module):
    """oneDNN's; the weights in their old layout are not kept."""

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


class PanelLinear(torch.nn.Module):
    """`gemm`'s. Of many tokens each has the result that it would have alone, to the bit."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        bias = linear.bias if linear.bias is not None else torch.empty(0, dtype=torch.bfloat16)
        self.panels, self.scale = self._laid_out(linear.weight.detach())
        self.bias = bits_of(bias.detach())

    def _laid_out(self, weight: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        return gemm.to_panels(weight), np.empty(0, np.float32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in) to (..., out), both bfloat16."""
        y = gemm.multiply(x.reshape(-1, x.shape[-1]), self.panels, self.scale)
        add_bias(bits_of(y), self.bias)
        return y.view(*x.shape[:-1], y.shape[-1])

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """(tokens, in) to (tokens, out), float32: as summed, so that near ties stay apart.

        bfloat16 has a step of an eighth where logits are 16 and more.
        """
        return gemm.multiply(x, self.panels, self.scale, torch.float32)


class Int8Linear(PanelLinear):
    """Weights rounded to int8, with a scale for each output."""

    def _laid_out(self, weight: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        wide = weight.float()
        scale = (wide.abs().amax(dim=1) / 127).clamp(min=1e-12)
        rounded = (wide / scale[:, None]).round().to(torch.int8)
        return gemm.to_panels(rounded), scale.numpy()


class BothLinear(torch.nn.Module):
    """For CPUs with a matrix unit: that needs many tokens, for few all that counts is reading."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self._few, self._many = PanelLinear(linear), PackedLinear(linear)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in) to (..., out), both bfloat16."""
        few = x.numel() <= TILE * x.shape[-1]
        y: torch.Tensor = self._few(x) if few else self._many(x)
        return y


_KINDS: dict[Kind, type[torch.nn.Module]] = {
    "packed": PackedLinear,
    "panels": PanelLinear,
    "both": BothLinear,
    "int8": Int8Linear,
}


def best_kind(model: Any) -> Kind:
    """The fastest for this model's layers on this CPU."""
    if not has_matrix_unit():
        return "panels"
    num_bytes = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    return "both" if num_bytes <= BOTH_MAX_BYTES else "packed"


def make_linear(linear: torch.nn.Linear, kind: Kind) -> torch.nn.Module:
    """What computes `linear` in this way: with int8, nearly so. What cannot be is left."""
    if not can_pack(linear.weight.dtype):
        return linear
    if kind != "packed" and not gemm.fits(linear.weight):
        kind = "packed"
    if kind == "packed" and not has_onednn():
        return linear
    made = _KINDS[kind](linear)
    return made


def pack_linears(model: torch.nn.Module) -> None:
    """Replace all linear layers of the model, in place."""
    kind = best_kind(model)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is torch.nn.Linear:
                setattr(module, name, make_linear(child, kind))


def can_pack(dtype: torch.dtype) -> bool:
    """Whether there are kernels here for it. float32 stays as it is: to the bit, as a reference."""
    return dtype is torch.bfloat16


def has_onednn() -> bool:
    """Whether oneDNN has kernels in bfloat16 for this CPU."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
