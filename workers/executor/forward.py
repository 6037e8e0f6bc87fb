"""Computes a model's logits: by our own code if it knows the architecture, else transformers'."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from bros.workers.attention.interface import Attention
from bros.workers.cpu.linear import can_pack, pack_linears
from bros.workers.executor.llama import LlamaForward, can_run

Forward = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Attention], torch.Tensor]


class GenericForward:
    """A `Forward` of transformers' own layers around our attention."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __call__(
        self, ids: torch.Tensor, positions: torch.Tensor, last: torch.Tensor, attention: Attention
    ) -> torch.Tensor:
        """Return logits (len(last), vocabulary) after the tokens `last` of the packed `ids`."""
        output = self._model(
            input_ids=ids[None],
            position_ids=positions[None],
            use_cache=False,
            logits_to_keep=last,
            paged=attention,
        )
        logits: torch.Tensor = output.logits[0]
        return logits


def make_forward(model: Any, quantize: str) -> Forward:
    """Return the fastest forward for this model. Raise ValueError if it cannot be quantised."""
    if quantize != "none" and not can_pack(model.dtype):
        raise ValueError(f"worker.quantize = {quantize!r} needs model.dtype = 'bfloat16'")
    if can_run(model):
        return LlamaForward(model, quantize)
    if quantize != "none":
        raise ValueError(
            f"worker.quantize = {quantize!r} is not supported for {type(model).__name__}"
        )
    return packed(model)


def packed(model: Any) -> GenericForward:
    """Return transformers' layers, whose linear ones use our kernels if they can."""
    if can_pack(model.dtype):
        pack_linears(model)
    return GenericForward(model)
