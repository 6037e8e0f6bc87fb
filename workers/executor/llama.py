"""The forward of Llama and its like, written out: five products and four passes a layer.

transformers' own layers make some 25 torch calls each, which in small batches cost as much as the
products. Here Q, K and V are one product, gate and up are another, and `fused` has the rest. Other
architectures run through transformers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numba import get_num_threads

from bros.workers.attention.interface import Attention
from bros.workers.cpu.bits import bits_of
from bros.workers.cpu.fused import add_norm, rotate, silu_times
from bros.workers.cpu.linear import Kind, PanelLinear, make_linear
from bros.workers.cpu.panel_code import PANEL
from bros.workers.cpu.panel_layer import after_attention, before_attention
from bros.workers.models.shape import is_fixed

ARCHITECTURES = {"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM"}


def can_run(model: Any) -> bool:
    """Return whether `LlamaForward` computes this model as transformers does."""
    rope = getattr(model.config, "rope_parameters", None) or {}
    return (
        type(model).__name__ in ARCHITECTURES
        and model.config.hidden_act in ("silu", "swish")
        and rope.get("rope_type", "default") in ("default", "linear", "llama3", "longrope")
        and is_fixed(rope)
        and rope.get("partial_rotary_factor", 1.0) == 1.0
    )


Heads = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Q, K and V: (tokens, heads, head_dim) each."""


@dataclass
class _Iteration:
    """What the layers of one iteration share; views too, which cost as much as a short pass."""

    stream: np.ndarray  # (tokens, hidden), float32: the residual
    normed: torch.Tensor  # (tokens, hidden)
    cos: np.ndarray  # (tokens, half a head)
    sin: np.ndarray
    eps: np.float32
    heads: tuple[int, int, int]  # of Q, K and V
    threads: int
    _buffers: dict[str, torch.Tensor] = field(default_factory=dict)
    _bits: dict[int, tuple[torch.Tensor, np.ndarray]] = field(default_factory=dict)
    _split: tuple[torch.Tensor, Heads] | None = None

    @property
    def rotated(self) -> int:
        """Heads of Q and K."""
        return self.heads[0] + self.heads[1]

    def buffer(self, name: str, width: int) -> torch.Tensor:
        """Return a tensor (tokens, width) that each layer overwrites."""
        if name not in self._buffers:
            self._buffers[name] = self.normed.new_empty(len(self.stream), width)
        return self._buffers[name]

    def bits(self, tensor: torch.Tensor) -> np.ndarray:
        """Return `bits_of` a tensor that several layers are given."""
        known = self._bits.get(id(tensor))
        if known is None:  # the tensor is kept too, so that no other gets its id
            known = self._bits[id(tensor)] = tensor, bits_of(tensor)
        return known[1]

    def split(self, qkv: torch.Tensor) -> Heads:
        """Return views of Q, K and V in their product (tokens, ...); the same for one tensor."""
        if self._split is None or self._split[0] is not qkv:
            heads = qkv.view(len(qkv), -1, 2 * self.cos.shape[1])
            q, k, v = torch.split(heads, list(self.heads), dim=1)
            self._split = qkv, (q, k, v)
        return self._split[1]


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

    def before(self, x: torch.Tensor, now: _Iteration) -> Heads:
        """Return Q, K and V with positions; `x` is what must first be added to the residual."""
        add_norm(
            bits_of(x), now.stream, self.attention_norm, now.eps, bits_of(now.normed), now.threads
        )
        qkv: torch.Tensor = self.qkv(now.normed)
        heads = qkv.view(len(qkv), -1, 2 * now.cos.shape[1])
        rotate(bits_of(heads[:, : now.rotated]), now.cos, now.sin, now.threads)
        return now.split(qkv)

    def after(self, attended: torch.Tensor, now: _Iteration) -> torch.Tensor:
        """Return what the next layer adds to the residual (tokens, hidden).

        `attended` is (tokens, heads, head_dim).
        """
        x = self.o(attended.view(len(attended), -1))
        add_norm(bits_of(x), now.stream, self.mlp_norm, now.eps, bits_of(now.normed), now.threads)
        gate_up = self.gate_up(now.normed)
        active = gate_up.new_empty(len(gate_up), gate_up.shape[1] // 2)
        silu_times(bits_of(gate_up), bits_of(active), now.threads)
        added: torch.Tensor = self.down(active)
        return added


class _PanelLayer:
    """A layer whose products are all `gemm`'s, in two calls: each costs as much as a short pass."""

    def __init__(self, layer: _Layer) -> None:
        self.scale = layer.scale
        self._norms = layer.attention_norm, layer.mlp_norm
        products = (layer.qkv, layer.o, layer.gate_up, layer.down)
        self._qkv, self._o, self._gate_up, self._down = map(_weights, products)

    def before(self, x: torch.Tensor, now: _Iteration) -> Heads:
        """As `_Layer.before`."""
        qkv = now.buffer("qkv", PANEL * len(self._qkv[0]))
        before_attention(
            now.bits(x),
            now.stream,
            self._norms[0],
            now.eps,
            now.bits(now.normed),
            self._qkv,
            now.cos,
            now.sin,
            now.rotated,
            now.bits(qkv),
            now.threads,
        )
        return now.split(qkv)

    def after(self, attended: torch.Tensor, now: _Iteration) -> torch.Tensor:
        """As `_Layer.after`."""
        width = PANEL * len(self._gate_up[0])
        x, both = now.buffer("x", PANEL * len(self._o[0])), now.buffer("gate_up", width)
        after_attention(
            now.bits(attended).reshape(len(now.stream), -1),
            now.stream,
            self._norms[1],
            now.eps,
            now.bits(now.normed),
            self._o,
            self._gate_up,
            self._down,
            now.bits(x),
            now.bits(both),
            now.bits(now.buffer("active", width // 2)),
            now.threads,
        )
        return x


def _weights(product: torch.nn.Module) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if not isinstance(product, PanelLinear):
        raise TypeError(f"{type(product).__name__} has no panels")
    return product.panels, product.scale, product.bias


def _make_layer(layer: Any, kind: Kind) -> _Layer | _PanelLayer:
    made = _Layer(layer, kind)
    products = (made.qkv, made.o, made.gate_up, made.down)
    fused = all(isinstance(product, PanelLinear) for product in products)
    return _PanelLayer(made) if fused else made


class _Angles:
    """The rotary embedding of positions, from a table that grows with the longest sequence."""

    def __init__(self, rotary: Any) -> None:
        self._rotary = rotary
        self._cos = self._sin = np.empty((0, 0), np.float32)  # (positions, half a head)

    def of(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return cosines and sines (tokens, half a head), float32."""
        size = int(positions.max()) + 1
        if size > len(self._cos):
            self._cos, self._sin = self._table(max(size, 2 * len(self._cos)))
        return self._cos[positions], self._sin[positions]

    def _table(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        both = self._rotary(torch.empty(0, dtype=torch.float32), torch.arange(size)[None])
        half = both[0].shape[-1] // 2  # both halves of a head turn alike
        cos, sin = (angles[0, :, :half].contiguous().numpy() for angles in both)
        return cos, sin


class LlamaForward:
    """A `Forward` that takes the weights out of a transformers model, which is then unusable."""

    def __init__(self, model: Any, quantize: str) -> None:
        kind: Kind = "int8" if quantize == "int8" else "panels"
        inner, config = model.model, model.config
        self._embedding: torch.Tensor = inner.embed_tokens.weight.detach()
        self._angles = _Angles(inner.rotary_emb)
        self._final_norm = bits_of(inner.norm.weight.detach())
        self._eps = np.float32(config.rms_norm_eps)
        self._heads: int = config.num_attention_heads
        self._kv_heads: int = config.num_key_value_heads
        self._layers = []
        while len(inner.layers):  # one layer's old weights at a time
            self._layers.append(_make_layer(inner.layers[0], kind))
            del inner.layers[0]
        self._head = make_linear(model.lm_head, kind)

    def __call__(
        self, ids: torch.Tensor, positions: torch.Tensor, last: torch.Tensor, attention: Attention
    ) -> torch.Tensor:
        """Return logits (len(last), vocabulary) after the tokens `last` of the packed `ids`."""
        x = self._embedding[ids]
        now = self._begin(x, positions)
        for index, layer in enumerate(self._layers):
            q, k, v = layer.before(x, now)
            x = layer.after(attention(index, q, k, v, layer.scale), now)
        x, stream = x[last], now.stream[last.numpy()]
        normed = torch.empty_like(x)
        add_norm(bits_of(x), stream, self._final_norm, self._eps, bits_of(normed), now.threads)
        if isinstance(self._head, PanelLinear) and not len(self._head.bias):
            return self._head.logits(normed)
        logits: torch.Tensor = self._head(normed)
        return logits

    def _begin(self, x: torch.Tensor, positions: torch.Tensor) -> _Iteration:
        cos, sin = self._angles.of(positions.numpy())
        return _Iteration(
            stream=np.zeros(x.shape, np.float32),
            normed=torch.empty_like(x),
            cos=cos,
            sin=sin,
            eps=self._eps,
            heads=(self._heads, self._kv_heads, self._kv_heads),
            threads=get_num_threads(),
        )


def _fuse(kind: Kind, *linears: torch.nn.Linear) -> torch.nn.Module:
    """Return one product that computes several of the same input."""
    weight = torch.cat([linear.weight.detach() for linear in linears])
    fused = torch.nn.Linear(weight.shape[1], 1, bias=False, device="meta")
    fused.weight = torch.nn.Parameter(weight, requires_grad=False)
    if linears[0].bias is not None:
        bias = torch.cat([linear.bias.detach() for linear in linears])
        fused.bias = torch.nn.Parameter(bias, requires_grad=False)
    return make_linear(fused, kind)
