"""Tries out whether transformers' layers of a model compute with our attention what they should.

Our attention knows keys, values, causality and a scale. A family of models may ask for more, may
compute its attention itself, or may mix tokens elsewhere: then requests that share an iteration
would see each other. Two tokens tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from bros.workers.attention.interface import AttentionBatch
from bros.workers.models.shape import ModelShape, UnsupportedModel

# What transformers passes through to attention and what changes nothing in ours.
HARMLESS = {
    "cache_position",
    "cu_seq_lens_k",
    "cu_seq_lens_q",
    "deterministic",
    "dropout",  # none while a model is evaluated
    "max_length_k",
    "max_length_q",
    "position_ids",
    "use_cache",
}
TOLERANCE = 0.02  # of the largest value; experts round otherwise if they get other tokens beside


class Trial:
    """An `Attention` of rows of one token, each of which sees itself only."""

    def __init__(self, shape: ModelShape) -> None:
        self._shape = shape
        self.layers: list[int] = []  # those that have called
        self.is_even = True  # whether both tokens had the same keys and queries in all layers

    def begin(self, batch: AttentionBatch) -> None:
        """Nothing is shared by layers."""

    def check(self, options: Mapping[str, Any]) -> None:
        """Raise UnsupportedModel if a layer asks for what our attention does not do."""
        window = options.get("sliding_window")
        if window is not None and window < self._shape.max_len:
            raise UnsupportedModel(f"a sliding window of {window} tokens is not supported")
        if options.get("is_causal") is False:
            raise UnsupportedModel("attention that is not causal is not supported")
        known = HARMLESS | {"sliding_window", "is_causal"}
        for name in sorted(options.keys() - known):
            if options[name] is not None and options[name] is not False:
                raise UnsupportedModel(f"attention with {name} is not supported")

    def __call__(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float
    ) -> torch.Tensor:
        shape = self._shape
        heads = (q.shape[1:], k.shape[1:], v.shape[1:])
        ours = torch.Size([shape.kv_heads, shape.head_dim])
        if heads != (torch.Size([shape.num_heads, shape.head_dim]), ours, ours):
            sizes = ", ".join(" x ".join(map(str, size)) for size in heads)
            raise UnsupportedModel(f"attention heads of sizes {sizes} are not supported")
        self.layers.append(layer)
        self.is_even &= all(_is_close(rows[0], rows[1]) for rows in (q, k))
        return v.repeat_interleave(shape.num_heads // shape.kv_heads, dim=1)


@torch.inference_mode()
def try_out(model: Any, shape: ModelShape) -> None:
    """Raise UnsupportedModel, which says why in one line, if answers would be wrong."""
    family = model.config.get_text_config().model_type
    try:
        trials = [_last_logits(model, shape, [first, 2]) for first in (1, 2)]
    except UnsupportedModel as error:
        raise UnsupportedModel(f"{family}: {error}") from None
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UnsupportedModel(
            f"{family}: its layers do not work with our attention ({reason})"
        ) from error
    if not trials[1][1].is_even:
        raise UnsupportedModel(
            f"{family}: its layers do not take positions from us, which is not supported"
        )
    if not _is_close(trials[0][0], trials[1][0]):
        raise UnsupportedModel(
            f"{family}: its layers mix tokens outside attention, which is not supported"
        )


def _is_close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return bool((one - other).abs().max() <= TOLERANCE * one.abs().max())


def _last_logits(model: Any, shape: ModelShape, ids: list[int]) -> tuple[torch.Tensor, Trial]:
    """Return the last token's logits, where each token is the first of a sequence of its own."""
    trial = Trial(shape)
    output = model(
        input_ids=torch.tensor([ids]),
        position_ids=torch.zeros(1, len(ids), dtype=torch.long),
        use_cache=False,
        logits_to_keep=torch.tensor([len(ids) - 1]),
        paged=trial,
    )
    if trial.layers != list(range(shape.num_layers)):
        raise UnsupportedModel("some layers have attention of their own, which is not supported")
    logits: torch.Tensor = output.logits[0, -1]
    return logits.float(), trial
