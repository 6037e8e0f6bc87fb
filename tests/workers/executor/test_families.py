"""Tiny models of each supported family give the tokens that transformers gives, in float32."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from bros.brosd.config import load
from bros.kv import Klass
from bros.kv.invariants import check
from bros.workers.factory import cpu_executor
from bros.workers.models.shape import ModelShape, UnsupportedModel
from bros.workers.tensor_parallel import Ranks, Shards
from rows import RowRunner
from tiny import FAMILIES, VOCABULARY, generate, make_checkpoint

NUM_TOKENS = 20
LENGTHS = [3, 16, 45, 70]
SETTINGS = ["model.dtype=float32", "kv.num_blocks=40"]


FACTORS = [1.0 + i / 4 for i in range(16)]  # of half a head: as a GGUF file says them
BY_FACTORS = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": FACTORS,
    "long_factor": FACTORS,
    "attention_factor": 1.0,
    "original_max_position_embeddings": 64,
}
CASES = [*((family, {}) for family in FAMILIES), ("llama", {"rope_parameters": BY_FACTORS})]


@pytest.mark.parametrize(("family", "changes"), CASES)
def test_mixed_rows_that_lose_their_kv(
    family: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    """Both directions, prompts in chunks beside decodes; each row in turn loses all its KV."""
    folder = make_checkpoint(family, tmp_path / "model", **changes)
    rng = random.Random(4)
    prompts = [[rng.randrange(VOCABULARY) for _ in range(length)] for length in LENGTHS]
    expected = [generate(folder, prompt, NUM_TOKENS) for prompt in prompts]
    assert len({token for tokens in expected for token in tokens[-NUM_TOKENS:]}) > 10

    config = load(overrides=SETTINGS, environ={})
    runner = RowRunner(cpu_executor(folder, config), config, tmp_path / "table")
    runner.allocator.costs.copy_s_per_block = 0.0
    runner.allocator.costs.compute_s_per_token = 1.0  # so that copies pay
    rows = [runner.open(Klass(i % 2), prompt) for i, prompt in enumerate(prompts)]
    while unfinished := [
        i for i, row in enumerate(rows) if len(runner.tokens[row]) < len(expected[i])
    ]:
        chosen = rng.sample(unfinished, rng.randint(1, len(unfinished)))
        runner.step([(rows[i], rng.randint(1, min(19, runner.pending(rows[i])))) for i in chosen])
        loser = rng.choice(rows[1::2])  # BE
        if rng.random() < 0.2:
            runner.allocator.give_up(loser)
    assert [runner.tokens[row] for row in rows] == expected
    check(runner.allocator)


@pytest.mark.parametrize("family", ["gemma2", "gemma3_text", "mistral"])
def test_a_sliding_window_bounds_the_length(family: str, tmp_path: Path) -> None:
    """Within its window a sliding layer sees everything; longer sequences are not served."""
    folder = make_checkpoint(family, tmp_path, sliding_window=48)
    assert ModelShape.of(folder).max_len == 48


def test_soft_capped_logits_are_refused(tmp_path: Path) -> None:
    folder = make_checkpoint("gemma2", tmp_path, attn_logit_softcapping=50.0)
    with pytest.raises(UnsupportedModel, match="soft-capped"):
        ModelShape.of(folder)


def test_more_ranks_than_kv_heads_are_refused(tmp_path: Path) -> None:
    folder = make_checkpoint("qwen3", tmp_path)
    with pytest.raises(UnsupportedModel, match=r"tensor_parallel = 2 .* the model has 1"):
        Shards(Ranks(0, 2), ModelShape.of(folder))


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_the_ranks_parts_make_up_the_whole(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With three KV heads on two ranks, both parts of a layer add up to the whole layer."""
    from transformers import AutoModelForCausalLM

    heads = {"num_attention_heads": 6, "num_key_value_heads": 3, "hidden_size": 96}
    folder = make_checkpoint(family, tmp_path, **heads, head_dim=16, intermediate_size=97)
    monkeypatch.setattr("torch.distributed.all_reduce", lambda tensor: None)
    x = torch.randn(1, 5, 96)
    whole = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    parts = []
    for rank in range(2):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        Shards(Ranks(rank, 2), ModelShape.of(folder)).cut(model)
        parts.append(model)
    layers = [model.model.layers[0] for model in (whole, *parts)]
    outputs = [layer.mlp(x) for layer in layers]
    torch.testing.assert_close(outputs[1] + outputs[2], outputs[0], atol=1e-5, rtol=1e-4)
    for name in ("q_proj", "k_proj", "v_proj"):
        cut = [getattr(layer.self_attn, name)(x) for layer in layers]
        torch.testing.assert_close(torch.cat(cut[1:], -1), cut[0], atol=1e-5, rtol=1e-5)
    full = torch.randn(1, 5, 6 * 16)
    split = full.split([4 * 16, 2 * 16], -1)
    summed = sum(
        layer.self_attn.o_proj(part) for layer, part in zip(layers[1:], split, strict=True)
    )
    torch.testing.assert_close(summed, layers[0].self_attn.o_proj(full), atol=1e-5, rtol=1e-5)
