"""How a GGUF file scales its rotary embedding, in the terms of transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bros.workers.models.errors import ModelError

KNOWN = {"type", "factor", "original_context_length", "finetuned", "attn_factor"}
YARN = {"yarn_beta_fast": "beta_fast", "yarn_beta_slow": "beta_slow"}


def scaled_rope(
    fields: Mapping[str, Any], tensors: Mapping[str, Any], max_len: int
) -> dict[str, Any]:
    """Return what to change in `rope_parameters`; nothing if the embedding is not scaled.

    `fields` are the file's metadata, `tensors` its tensors by name, `max_len` its context in
    tokens. Raise ModelError for a scaling that cannot be expressed.
    """
    prefix = f"{fields['general.architecture']}.rope."
    scaling = {
        name.removeprefix(f"{prefix}scaling."): value
        for name, value in fields.items()
        if name.startswith(f"{prefix}scaling.")
    }
    original_len = int(scaling.get("original_context_length", max_len))
    if "rope_factors_long.weight" in tensors:
        return _by_factors(tensors, original_len, float(scaling.get("attn_factor", 1.0)))
    _refuse_unknown(scaling)
    if "rope_freqs.weight" in tensors:
        # One list for all lengths: Llama 3's scaling, computed when the file was written.
        factors = {f"rope_factors_{kind}.weight": tensors["rope_freqs.weight"] for kind in KINDS}
        return _by_factors(factors, original_len, 1.0)
    factor = float(scaling.get("factor", fields.get(f"{prefix}scale_linear", 1.0)))
    kind = scaling.get("type", "linear")
    if kind == "none" or factor in (0.0, 1.0):
        return {}
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    betas = {ours: float(scaling[name]) for name, ours in YARN.items() if name in scaling}
    return {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": original_len,
        **betas,
    }


KINDS = ("short", "long")


def _by_factors(
    tensors: Mapping[str, Any], original_len: int, attention_factor: float
) -> dict[str, Any]:
    """Divide each frequency by a factor of its own, of the list for short or for long contexts."""
    lists = {
        f"{kind}_factor": [float(factor) for factor in tensors[f"rope_factors_{kind}.weight"]]
        for kind in KINDS
    }
    return {
        "rope_type": "longrope",
        "original_max_position_embeddings": original_len,
        "attention_factor": attention_factor,
        **lists,
    }


def _refuse_unknown(scaling: Mapping[str, Any]) -> None:
    kind = scaling.get("type", "linear")
    if kind not in ("none", "linear", "yarn"):
        raise ModelError(f"RoPE scaling of type {kind} is not supported in GGUF files")
    unknown = sorted(scaling.keys() - KNOWN - YARN.keys())
    if float(scaling.get("attn_factor", 1.0)) != 1.0:
        unknown.append("attn_factor")
    if unknown:
        raise ModelError(
            f"the GGUF file scales RoPE by {', '.join(unknown)}, which is not supported: "
            "give a Hugging Face folder of the model"
        )
