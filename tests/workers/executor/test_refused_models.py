"""Models that our attention would compute wrongly are refused at load, and one line says why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from bros.brosd.config import load
from bros.workers.executor.load import ATTENTION_NAME, load_model
from bros.workers.executor.trial import Trial, try_out
from bros.workers.models.shape import ModelShape, UnsupportedModel
from bros.workers.tensor_parallel import ALONE
from tiny import SIZES, make_checkpoint

CONFIG = load(overrides=["model.dtype=float32"], environ={})
WHY = {
    "gpt_oss": "attention with s_aux is not supported",
    "xglm": "xglm",
    "openai-gpt": "openai-gpt",
    "gpt_neox_japanese": "gpt_neox_japanese",
    "diffllama": "diffllama",
    "jetmoe": "jetmoe",
    "bloom": "bloom",
    "mpt": "mpt",
    "falcon": "attention of its own",
    "gpt_neo": "attention of its own",
    "stablelm": "do not pass on what our attention needs",
    "rwkv": "rwkv",
    "mamba": "mamba",
}


def make_any(family: str, folder: Path, **changes: Any) -> None:
    """Write a tiny model of any family, with those of our sizes that it has."""
    known = AutoConfig.for_model(family)
    names = known.to_dict().keys() | known.attribute_map.keys() | vars(known).keys()
    sizes = SIZES | {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 16}
    if family == "gpt_neo":
        sizes |= {"attention_types": [[["global"], 3]], "num_layers": 3}
    sizes = {name: size for name, size in sizes.items() if name in names} | changes
    torch.manual_seed(1)
    config = AutoConfig.for_model(family, **sizes)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)


@pytest.mark.parametrize("family", WHY)
def test_families_that_would_be_wrong(family: str, tmp_path: Path) -> None:
    make_any(family, tmp_path)
    with pytest.raises(UnsupportedModel, match=WHY[family]) as caught:
        load_model(tmp_path, CONFIG, ALONE)
    message = str(caught.value)
    assert "not supported" in message or "do not work with our attention" in message
    assert len(message.splitlines()) == 1


def test_layers_that_mix_tokens_outside_attention(tmp_path: Path) -> None:
    folder = make_checkpoint("llama", tmp_path)
    model, loaded = load_model(folder, CONFIG, ALONE)
    try_out(model, loaded.model)

    def blend(_: object, __: object, output: torch.Tensor) -> torch.Tensor:
        return output + output.roll(1, dims=1)

    model.get_submodule("model.layers.1.mlp").register_forward_hook(blend)
    with pytest.raises(UnsupportedModel, match="llama: its layers mix tokens"):
        try_out(model, loaded.model)


def test_layers_that_count_positions_themselves(tmp_path: Path) -> None:
    folder = make_checkpoint("llama", tmp_path)
    model, loaded = load_model(folder, CONFIG, ALONE)

    rotary: Any = model.get_submodule("model.rotary_emb")
    turn = rotary.forward
    rotary.forward = lambda x, position_ids: turn(x, torch.arange(position_ids.numel())[None])
    with pytest.raises(UnsupportedModel, match="do not take positions from us"):
        try_out(model, loaded.model)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"softcap": 50.0}, "softcap"),
        ({"sliding_window": 32}, "sliding window of 32 tokens"),
        ({"is_causal": False}, "not causal"),
        ({"position_bias": torch.zeros(1)}, "position_bias"),
    ],
)
def test_options_of_attention_that_are_not_known(
    options: dict[str, Any], why: str, tmp_path: Path
) -> None:
    trial = Trial(ModelShape.of(make_checkpoint("llama", tmp_path)))
    trial.check({"dropout": 0.0, "sliding_window": 256, "is_causal": True, "softcap": None})
    with pytest.raises(UnsupportedModel, match=why):
        trial.check(options)


def test_a_window_without_a_layer_that_slides(tmp_path: Path) -> None:
    kinds = {"sliding_window": 32, "layer_types": ["full_attention"] * 3}
    folder = make_checkpoint("gemma3_text", tmp_path, **kinds)
    _, loaded = load_model(folder, CONFIG, ALONE)
    assert loaded.model.max_len == SIZES["max_position_embeddings"]


@pytest.mark.parametrize(("long", "max_len"), [(4.0, 64), (1.5, 256)])
def test_frequencies_that_depend_on_length_bound_it(
    long: float, max_len: int, tmp_path: Path
) -> None:
    """Beyond the limit they would depend on what runs beside a request."""
    factors = {"short_factor": [1.5] * 16, "long_factor": [long] * 16, "attention_factor": 1.0}
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 64}
    folder = make_checkpoint("llama", tmp_path, rope_parameters=rope | factors)
    assert ModelShape.of(folder).max_len == max_len


def test_the_attention_that_config_json_names_is_not_used(tmp_path: Path) -> None:
    folder = make_checkpoint("llama", tmp_path)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for name in ("_attn_implementation", "attn_implementation", "_attn_implementation_internal"):
        path.write_text(json.dumps(config | {name: "eager"}))
        model: Any = load_model(folder, CONFIG, ALONE)[0]
        assert model.config._attn_implementation == ATTENTION_NAME


def test_a_checkpoint_that_lacks_a_tensor_is_refused(tmp_path: Path) -> None:
    folder = make_checkpoint("llama", tmp_path)
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.down_proj.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UnsupportedModel, match=r"model\.layers\.1\.mlp\.down_proj\.weight"):
        load_model(folder, CONFIG, ALONE)
