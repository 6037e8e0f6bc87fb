"""The forward of Llama and its like, written out: five products and four passes a layer.

transformers' own layers take some 25 torch calls each, which at small batches costs as much as
the products. Here Q, K and V are one product, gate and up another, and the rest is in `fused`.
Other architectures run through transformers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from bros.workers.attention.interface import Attention
from bros.workers.bits import bits_of
from bros.workers.fused import add_norm, rotate, silu_times
from bros.workers.linear import Kind, Linear, best_kind, make_linear

ARCHITECTURES = {"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM"}


def can_run(model: Any) -> bool:
    """Whether the model is one that `LlamaForward` computes exactly."""
    rope = getattr(model.config, "rope_parameters", None) or {}
    return (
        type(model).__name__ in ARCHITECTURES
        and model.config.hidden_act in ("silu", "swish")
        and rope.get("rope_type", "default") in ("default", "linear", "llama3")
        and rope.get("partial_rotary_factor", 1.0) == 1.0
    )


class _Layer:
    """One layer's weights, fused."""

    def __init__(self, layer: Any, kind: Kind) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.scale = float(attention.scaling)
        self.qkv = _fuse(kind, attention.q_proj, attention.k_proj, attention.v_proj)
        self.o = make_linear(attention.o_proj, kind)
        self.gate_up = _fuse(kind, mlp.gate_proj, mlp.up_proj)
        self.down = make_linear(mlp.down_proj, kind)
        self.attention_norm = bits_of(layer.input_layernorm.weight.detach())
        self.mlp_norm = bits_of(layer.post_attention_layernorm.weight.detach())


class LlamaForward:
    """Takes the weights out of a transformers model, which is not to be used after that."""

    def __init__(self, model: Any, quantize: str) -> None:
        kind: Kind = "int8" if quantize == "int8" else best_kind(model)
        inner, config = model.model, model.config
        self._embedding: torch.Tensor = inner.embed_tokens.weight.detach()
        self._rotary = inner.rotary_emb
        self._final_norm = bits_of(inner.norm.weight.detach())
        self._eps = np.float32(config.rms_norm_eps)
        self._heads: int = config.num_attention_heads
        self._kv_heads: int = config.num_key_value_heads
        self._layers = []
        while len(inner.layers):  # one layer's old weights at a time
            self._layers.append(_Layer(inner.layers[0], kind))
            del inner.layers[0]
        self._head = make_linear(model.lm_head, kind)

    def __call__(
        self, ids: torch.Tensor, positions: torch.Tensor, last: torch.Tensor, attention: Attention
    ) -> torch.Tensor:
        """Logits (len(last), vocabulary) after the tokens `last` of the packed tokens `ids`."""
        x = self._embedding[ids]
        stream = np.zeros(x.shape, np.float32)
        normed = torch.empty_like(x)
        out = bits_of(normed)
        cos, sin = self._angles(positions)
        for index, layer in enumerate(self._layers):
            add_norm(bits_of(x), stream, layer.attention_norm, self._eps, out)
            x = layer.o(self._attend(index, layer, layer.qkv(normed), (cos, sin), attention))
            add_norm(bits_of(x), stream, layer.mlp_norm, self._eps, out)
            x = layer.down(_activate(layer.gate_up(normed)))
        x, stream = x[last], stream[last.numpy()]
        normed = torch.empty_like(x)
        add_norm(bits_of(x), stream, self._final_norm, self._eps, bits_of(normed))
        logits: torch.Tensor = self._head(normed)
        return logits

    def _attend(
        self,
        index: int,
        layer: _Layer,
        qkv: torch.Tensor,
        angles: tuple[np.ndarray, np.ndarray],
        attention: Attention,
    ) -> torch.Tensor:
        heads, kv_heads = self._heads, self._kv_heads
        split = qkv.view(len(qkv), heads + 2 * kv_heads, -1)
        rotate(bits_of(split[:, : heads + kv_heads]), *angles)
        q, k, v = torch.split(split, [heads, kv_heads, kv_heads], dim=1)
        return attention(index, q, k, v, layer.scale).reshape(len(qkv), -1)

    def _angles(self, positions: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Cosines and sines (tokens, half a head): both halves of a head turn alike."""
        both = self._rotary(torch.empty(0, dtype=torch.float32), positions[None])
        half = both[0].shape[-1] // 2
        cos, sin = (angles[0, :, :half].contiguous().numpy() for angles in both)
        return cos, sin


def _activate(gate_up: torch.Tensor) -> torch.Tensor:
    out = gate_up.new_empty(len(gate_up), gate_up.shape[1] // 2)
    silu_times(bits_of(gate_up), bits_of(out))
    return out


def _fuse(kind: Kind, *linears: torch.nn.Linear) -> Linear:
    """One product for several of the same input."""
    weight = torch.cat([linear.weight.detach() for linear in linears])
    fused = torch.nn.Linear(weight.shape[1], 1, bias=False, device="meta")
    fused.weight = torch.nn.Parameter(weight, requires_grad=False)
    if linears[0].bias is not None:
        bias = torch.cat([linear.bias.detach() for linear in linears])
        fused.bias = torch.nn.Parameter(bias, requires_grad=False)
    return make_linear(fused, kind)
