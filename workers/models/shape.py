"""What the executor must know of a model's configuration, and which models it refuses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoConfig


class UnsupportedModel(ValueError):
    """The model would run but give wrong results: some layer attends otherwise than our kernels."""


@dataclass(frozen=True)
class ModelShape:
    """Sizes of the attention layers. `max_len` is in tokens."""

    num_layers: int
    num_heads: int
    kv_heads: int
    head_dim: int
    max_len: int
    vocab_size: int

    @classmethod
    def of(cls, folder: Path) -> ModelShape:
        """Read a Hugging Face folder. Raise UnsupportedModel, which says what is not supported."""
        config = AutoConfig.from_pretrained(folder, local_files_only=True).get_text_config()
        _refuse_unsupported(config)
        try:
            return cls._of(config)
        except (AttributeError, TypeError, ZeroDivisionError) as error:
            raise UnsupportedModel(
                f"{config.model_type} is not supported: its config.json does not say what "
                f"attention needs ({error})"
            ) from error

    @classmethod
    def _of(cls, config: Any) -> ModelShape:
        heads = config.num_attention_heads
        return cls(
            num_layers=config.num_hidden_layers,
            num_heads=heads,
            kv_heads=getattr(config, "num_key_value_heads", None) or heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
            max_len=_max_len(config),
            vocab_size=config.vocab_size,
        )


def _refuse_unsupported(config: Any) -> None:
    kinds = set(getattr(config, "layer_types", None) or ()) - {
        "full_attention",
        "sliding_attention",
    }
    problems = {
        "encoder-decoder models": getattr(config, "is_encoder_decoder", False),
        "soft-capped attention logits": getattr(config, "attn_logit_softcapping", None),
        f"layers of type {', '.join(sorted(kinds))}": bool(kinds),
        "latent attention (MLA)": getattr(config, "kv_lora_rank", None),
    }
    found = [problem for problem, present in problems.items() if present]
    if found:
        raise UnsupportedModel(f"{config.model_type}: {found[0]} are not supported")


def _max_len(config: Any) -> int:
    """Return the model's own limit in tokens.

    Within its window, a sliding layer attends to everything. A rotary embedding that changes with
    the longest sequence of an iteration is computed as for short ones, within their limit.
    """
    limits = [int(config.max_position_embeddings)]
    window = getattr(config, "sliding_window", None)
    if window and _slides(config):
        limits.append(int(window))
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [kind for kind in (rope, *rope.values()) if isinstance(kind, dict)]
    limits += [
        int(kind["original_max_position_embeddings"]) for kind in kinds if not is_fixed(kind)
    ]
    return min(limits)


def _slides(config: Any) -> bool:
    kinds = getattr(config, "layer_types", None)
    if kinds:
        return "sliding_attention" in kinds
    return bool(getattr(config, "use_sliding_window", True))


def is_fixed(rope: Mapping[str, Any]) -> bool:
    """Return whether frequencies are the same beside a sequence of any length, up to the limit.

    Those of the type "dynamic" change beyond `max_position_embeddings` only.
    """
    if rope.get("rope_type") != "longrope":
        return True
    return bool(rope["short_factor"] == rope["long_factor"])
