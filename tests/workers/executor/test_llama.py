"""Our own forward computes what transformers does, for each architecture that it supports."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config

from bros.workers.attention.interface import AttentionBatch, KvPool
from bros.workers.attention.torch_reference import TorchAttention
from bros.workers.executor.llama import LlamaForward, can_run

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
}


@pytest.mark.parametrize("num_tokens", [3, 20])
@pytest.mark.parametrize("kind", [LlamaConfig, MistralConfig, Qwen2Config])
@torch.inference_mode()
def test_it_agrees_with_transformers(kind: Any, num_tokens: int) -> None:
    torch.manual_seed(2)
    model = AutoModelForCausalLM.from_config(kind(**SIZES)).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):  # they start as zeros, and would not be missed
            parameter.normal_()
    assert can_run(model)
    ids = torch.arange(num_tokens) * 7 % 100
    wanted = model(ids[None]).logits[0]
    attention = TorchAttention(KvPool(2, 2, 16, 2, 16, torch.float32))
    one, tables = np.ones(1, np.int32), np.array([[1, 0]], np.int32)
    attention.begin(AttentionBatch(0 * one, num_tokens * one, tables, one == 0, 16))
    last = torch.tensor([1, num_tokens - 1])
    found = LlamaForward(model, "none")(ids, torch.arange(num_tokens), last, attention)
    torch.testing.assert_close(found, wanted[last], atol=1e-4, rtol=1e-4)


def test_other_activations_are_left_to_transformers() -> None:
    assert not can_run(AutoModelForCausalLM.from_config(LlamaConfig(**SIZES, hidden_act="gelu")))
