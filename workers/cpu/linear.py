"""Linear layers on CPUs in bfloat16, with weights laid out once as their kernel wants them.

`torch.nn.functional.linear` would bring the weights into such a layout in every call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch

from bros.workers.cpu import gemm
from bros.workers.cpu.bits import bits_of
from bros.workers.cpu.fused import add_bias

Linear = Callable[[torch.Tensor], torch.Tensor]
Kind = Literal["packed", "panels", "int8"]


class PackedLinear(torch.nn.Module):
    """A layer of oneDNN's, for weights that do not fit into panels. What it adds up in which order
    depends on the batch.
    """

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        self._bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (..., in) to (..., out), both bfloat16."""
        y: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self._weight, self._bias, "none", [], ""
        )
        return y


class PanelLinear(torch.nn.Module):
    """A layer of `gemm`'s. Each token has the result that it would have alone, to the bit."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        bias = linear.bias if linear.bias is not None else torch.empty(0, dtype=torch.bfloat16)
        self.panels, self.scale = self._laid_out(linear.weight.detach())
        self.bias = bits_of(bias.detach())

    def _laid_out(self, weight: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        return gemm.to_panels(weight), np.empty(0, np.float32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (..., in) to (..., out), both bfloat16."""
        y = gemm.multiply(x.reshape(-1, x.shape[-1]), self.panels, self.scale)
        add_bias(bits_of(y), self.bias)
        return y.view(*x.shape[:-1], y.shape[-1])

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """Map (tokens, in) to (tokens, out), float32: as summed, so that near ties stay apart.

        In bfloat16, logits of 16 and more have a step of an eighth.
        """
        return gemm.multiply(x, self.panels, self.scale, torch.float32)


class Int8Linear(PanelLinear):
    """A layer of `gemm`'s with weights rounded to int8, and a scale for each output."""

    def _laid_out(self, weight: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        wide = weight.float()
        scale = (wide.abs().amax(dim=1) / 127).clamp(min=1e-12)
        rounded = (wide / scale[:, None]).round().to(torch.int8)
        return gemm.to_panels(rounded), scale.numpy()


_KINDS: dict[Kind, type[torch.nn.Module]] = {
    "packed": PackedLinear,
    "panels": PanelLinear,
    "int8": Int8Linear,
}


def make_linear(linear: torch.nn.Linear, kind: Kind) -> torch.nn.Module:
    """Return a layer that computes `linear` in this way; `linear` itself if no kernel can.

    With int8, results are close. Weights that do not fit into panels are packed.
    """
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
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is torch.nn.Linear:
                setattr(module, name, make_linear(child, "panels"))


def can_pack(dtype: torch.dtype) -> bool:
    """Return whether there are kernels for it. float32 layers stay torch's own, as a reference."""
    return dtype is torch.bfloat16


def has_onednn() -> bool:
    """Return whether oneDNN has kernels in bfloat16 for this CPU."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
