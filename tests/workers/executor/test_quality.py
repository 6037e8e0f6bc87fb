"""What `worker.quantize` costs in quality: the perplexity of the beginning of a known book."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from bros.workers.attention.interface import AttentionBatch, KvPool
from bros.workers.attention.numba_paged import NumbaAttention
from bros.workers.executor.llama import LlamaForward

TEXT = Path(__file__).parent / "data" / "alice.txt"  # Lewis Carroll, 1865
BLOCK = 16


@torch.inference_mode()
def perplexity(folder: Path, quantize: str) -> float:
    """Return the text's perplexity, computed by our own forward."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    config = model.config
    ids = AutoTokenizer.from_pretrained(folder)(TEXT.read_text(), return_tensors="pt").input_ids[0]
    count, blocks = len(ids), -(-len(ids) // BLOCK)
    layers, heads = config.num_hidden_layers, config.num_key_value_heads
    size = config.hidden_size // config.num_attention_heads
    attention = NumbaAttention(KvPool(layers, blocks, BLOCK, heads, size, torch.bfloat16))
    one, tables = np.ones(1, np.int32), np.arange(blocks, dtype=np.int32)[None]
    attention.begin(AttentionBatch(0 * one, count * one, tables, one == 0, BLOCK))
    every = torch.arange(count)
    logits = LlamaForward(model, quantize)(ids, every, every, attention).float()
    return math.exp(torch.nn.functional.cross_entropy(logits[:-1], ids[1:]).item())


def test_int8_costs_little(model_dir: Path) -> None:
    exact, rounded = (perplexity(model_dir, quantize) for quantize in ("none", "int8"))
    print(f"perplexity: bfloat16 {exact:.3f}, int8 {rounded:.3f}")
    assert 2 < exact < 40
    assert abs(rounded / exact - 1) < 0.01
