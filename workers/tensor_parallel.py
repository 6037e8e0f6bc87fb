"""One model over several processes: each has some of the KV heads, and a share of every MLP.

Tensor parallelism as in Megatron-LM: q, k, v, gate and up are cut by outputs; o and down are cut by
inputs, and their partial results are added up over all ranks. KV heads need not divide evenly. How
each layer is cut is said by the model's own plan, in its transformers configuration.
"""

from __future__ import annotations

import fnmatch
import os
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist

from bros.workers.models.shape import ModelShape, UnsupportedModel

START_TIMEOUT = timedelta(minutes=5)
QUERY, KEY_VALUE, OUTPUT = ("q_proj",), ("k_proj", "v_proj"), ("o_proj",)
COLWISE, ROWWISE, WHOLE = "colwise", "rowwise", "replicated_with_grad_allreduce"


@dataclass(frozen=True)
class Ranks:
    """Which of the processes that share a model this one is: number `rank` of `size`, from 0.

    The default is a process that has the model to itself.
    """

    rank: int = 0
    size: int = 1

    def share(self, count: int) -> slice:
        """Return this rank's part of `count` things; the first ranks may have one more."""
        return slice(-(-count * self.rank // self.size), -(-count * (self.rank + 1) // self.size))

    def least(self, number: int) -> int:
        """Return the least of all ranks' numbers. All ranks must call it."""
        if self.size == 1:
            return number
        cell = torch.tensor([number], device=_device_of_group())
        dist.all_reduce(cell, dist.ReduceOp.MIN)
        return int(cell)


ALONE = Ranks()


def _device_of_group() -> str:
    return "cuda" if dist.get_backend() == "nccl" else "cpu"


def join(ranks: Ranks, store: Path, kind: str) -> None:
    """Wait for the other ranks, all on this machine. `store` is a file that all of them know."""
    if ranks.size == 1:
        return
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group(
        backend="nccl" if kind == "cuda" else "gloo",
        init_method=f"file://{store}",
        rank=ranks.rank,
        world_size=ranks.size,
        timeout=START_TIMEOUT,
    )


class RowParallelLinear(torch.nn.Module):
    """A linear layer of which this rank has some inputs; results are summed over all ranks."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., part of in) to (..., out)."""
        y: torch.Tensor = self.linear(x)
        dist.all_reduce(y)
        return y


class Shards:
    """Cuts a loaded model down to this rank's part, in place."""

    def __init__(self, ranks: Ranks, shape: ModelShape) -> None:
        """Raise UnsupportedModel if there are fewer KV heads than ranks."""
        if shape.kv_heads < ranks.size:
            raise UnsupportedModel(
                f"worker.tensor_parallel = {ranks.size} needs as many KV heads, and the model has "
                f"{shape.kv_heads}"
            )
        self._ranks = ranks
        self._head_dim = shape.head_dim
        self._group = shape.num_heads // shape.kv_heads
        self._kv_heads = ranks.share(shape.kv_heads)
        self.num_kv_heads = len(range(shape.kv_heads)[self._kv_heads])

    def cut(self, model: Any) -> None:
        """Leave this rank's part of all layers that the plan of a transformers model names.

        Raise UnsupportedModel if it has no plan, or one that we cannot follow.
        """
        config = model.config.get_text_config()
        plan = getattr(config, "base_model_tp_plan", None) or {}
        layers = {k: v for k, v in plan.items() if k.startswith("layers.")}
        kinds = {kind for kind in layers.values() if kind not in (COLWISE, ROWWISE, WHOLE)}
        if not layers or kinds:
            why = f"layers that are {', '.join(sorted(kinds))}" if kinds else "no plan for it"
            raise UnsupportedModel(
                f"{config.model_type} cannot be cut for worker.tensor_parallel: it has {why}"
            )
        base: torch.nn.Module = model.get_submodule(model.base_model_prefix)
        num_cut = 0
        for name, module in list(base.named_modules()):
            kind = next((k for p, k in layers.items() if fnmatch.fnmatchcase(name, p)), WHOLE)
            if kind == WHOLE:
                continue
            if type(module) is not torch.nn.Linear:
                raise UnsupportedModel(f"{name} is no plain linear layer and cannot be cut")
            parent, _, leaf = name.rpartition(".")
            setattr(base.get_submodule(parent), leaf, self._part(leaf, module, kind))
            num_cut += 1
        if num_cut < config.num_hidden_layers * sum(kind != WHOLE for kind in layers.values()):
            raise UnsupportedModel(
                f"{config.model_type}: its layers are not where its tensor-parallel plan says"
            )

    def _part(self, leaf: str, linear: torch.nn.Linear, kind: str) -> torch.nn.Module:
        by_output = kind == COLWISE
        span = self._span(leaf, linear.weight.shape[0 if by_output else 1])
        weight = linear.weight.detach()
        linear.weight = _kept(weight[span] if by_output else weight[:, span])
        linear.out_features, linear.in_features = linear.weight.shape
        if linear.bias is not None and by_output:
            linear.bias = _kept(linear.bias.detach()[span])
        elif linear.bias is not None and self._ranks.rank > 0:
            linear.bias = _kept(torch.zeros_like(linear.bias))  # rank 0 adds it, once
        return linear if by_output else RowParallelLinear(linear)

    def _span(self, leaf: str, size: int) -> slice:
        """Return which outputs or inputs of a layer are this rank's: whole heads in attention."""
        if leaf in KEY_VALUE:
            unit = self._head_dim
        elif leaf in QUERY + OUTPUT:
            unit = self._head_dim * self._group
        else:
            return self._ranks.share(size)
        return slice(self._kv_heads.start * unit, self._kv_heads.stop * unit)


def _kept(part: torch.Tensor) -> torch.nn.Parameter:
    """Return a copy, so that the memory of the whole can be freed."""
    return torch.nn.Parameter(part.clone(memory_format=torch.contiguous_format), False)
