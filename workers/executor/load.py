"""Loads a transformers model whose attention is ours, or one rank's part of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from bros.brosd.config import Config
from bros.workers.attention.interface import Attention, KvPool
from bros.workers.executor.trial import Trial, try_out
from bros.workers.models.shape import ModelShape, UnsupportedModel
from bros.workers.tensor_parallel import Ranks, Shards

DTYPES = {
    "auto": torch.bfloat16,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
}
ATTENTION_NAME = "bros_paged"
MAX_NAMED = 5  # tensors in an error


def _attend(
    module: torch.nn.Module,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None,
    *,
    scaling: float,
    paged: Attention | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention function: (1, heads, tokens, head_dim) in, (1, tokens, ...) out."""
    if paged is None:
        raise UnsupportedModel("some layers do not pass on what our attention needs: not supported")
    if isinstance(paged, Trial):  # once: a layer has the same options each time
        paged.check(options)
    layer: int = module.layer_idx  # type: ignore[assignment]
    q, k, v = (tensor[0].transpose(0, 1).contiguous() for tensor in (q, k, v))
    return paged(layer, q, k, v, scaling)[None], None


transformers_logging.disable_progress_bar()  # this process logs, it has no terminal
AttentionInterface.register(ATTENTION_NAME, _attend)
# No mask is registered under that name, so transformers makes none: the kernels mask.


@dataclass(frozen=True)
class LoadedShape:
    """Sizes of a model that was loaded, and of this rank's part of its keys and values."""

    model: ModelShape
    kv_heads: int  # of this rank
    dtype: torch.dtype

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of keys and values of one token, in all layers and on all ranks."""
        model = self.model
        return KvPool.bytes_per_token(model.num_layers, model.kv_heads, model.head_dim, self.dtype)

    @property
    def kv_bytes_of_rank(self) -> int:
        """The same on this rank alone."""
        return self.kv_bytes_per_token * self.kv_heads // self.model.kv_heads


def load_model(folder: Path, config: Config, ranks: Ranks) -> tuple[torch.nn.Module, LoadedShape]:
    """Load the model into host memory, and leave this rank's part of it.

    Raise UnsupportedModel if our attention would compute it wrongly, or if it cannot be cut.
    """
    dtype, shape = DTYPES[config.model.dtype], ModelShape.of(folder)
    model = _with_our_attention(folder, dtype)
    try_out(model, shape)
    kv_heads = shape.kv_heads
    if ranks.size > 1:
        shards = Shards(ranks, shape)
        shards.cut(model)
        kv_heads = shards.num_kv_heads
    return model, LoadedShape(shape, kv_heads, dtype)


def _with_our_attention(folder: Path, dtype: torch.dtype) -> Any:
    """Return transformers' model. Raise UnsupportedModel if it cannot be had with our attention."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    config._attn_implementation = ATTENTION_NAME  # whatever the model's config.json says
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            attn_implementation=ATTENTION_NAME,
            local_files_only=True,
            output_loading_info=True,
        )
    except (AttributeError, ImportError, LookupError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        if ATTENTION_NAME in reason:  # transformers has no other place for it
            reason = "it has attention of its own"
        raise UnsupportedModel(f"{config.model_type} is not supported: {reason}") from error
    if missing := sorted(found["missing_keys"]):
        named = ", ".join(missing[:MAX_NAMED])
        raise UnsupportedModel(f"{folder} lacks {len(missing)} tensors of the model: {named}")
    return model.eval()
