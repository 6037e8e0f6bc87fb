"""Tiny checkpoints of real architectures, whose random weights do not just repeat a token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

VOCABULARY = 512
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,  # the usual 0.02 makes a model repeat itself
    "bos_token_id": 0,
    "eos_token_id": None,
    "pad_token_id": 0,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}},
    "mistral": {"sliding_window": 200},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"num_key_value_heads": 1},
    "gemma": {"hidden_act": "gelu_pytorch_tanh"},
    # Tied to random embeddings, these would repeat their last token.
    "gemma2": {
        "attn_logit_softcapping": None,
        "query_pre_attn_scalar": 24,
        "tie_word_embeddings": False,
    },
    "gemma3_text": {
        "sliding_window": 200,
        "query_pre_attn_scalar": 24,
        "tie_word_embeddings": False,
    },
}


def make_checkpoint(family: str, folder: Path, **changes: Any) -> Path:
    """Write a tiny model of the family to the folder, and return the folder."""
    config = AutoConfig.for_model(family, **{**SIZES, **FAMILIES[family], **changes})
    torch.manual_seed(hash_of(family))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):  # Qwen2 has some, and starts them at zero
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return folder


def hash_of(family: str) -> int:
    return sum(family.encode())


def generate(folder: Path, prompt: list[int], num_tokens: int) -> list[int]:
    """Return the prompt and the tokens that transformers alone generates greedily after it."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.tensor([prompt])
    output = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        min_new_tokens=num_tokens,
        max_new_tokens=num_tokens,
        pad_token_id=0,
    )
    tokens: list[int] = output[0].tolist()
    return tokens
