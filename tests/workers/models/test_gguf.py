"""GGUF files are converted with all that they say, or refused with the reason."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFWriter, RopeScalingType
from transformers import AutoModelForCausalLM, AutoTokenizer

from bros.workers.models.errors import ModelError
from bros.workers.models.gguf import convert_gguf
from bros.workers.models.resolve import resolve
from gguf_files import GgufFile, tiny_model
from tiny import VOCABULARY

LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
ORIGINAL_LEN = 64


def logits(folder: Path) -> torch.Tensor:
    """Return the logits after each of 200 tokens."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.randint(2, VOCABULARY, (1, 200), generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        result: torch.Tensor = model(input_ids=ids).logits
    return result


def llama3_factors(head_dim: int) -> list[float]:
    """Return by what Llama 3's scaling divides each frequency, for the sizes above."""
    factors = []
    for i in range(head_dim // 2):
        turns = ORIGINAL_LEN * 10000.0 ** (-2 * i / head_dim) / (2 * math.pi)
        share = min(max((turns - 1) / (4 - 1), 0.0), 1.0)
        factors.append(1 / ((1 - share) / 8 + share))
    return factors


def scaled(kind: str, writer: GGUFWriter) -> dict[str, list[float]]:
    """Write a scaling to the file as metadata, or return it as tensors."""
    if kind == "llama3":
        return {"rope_freqs": llama3_factors(16)}
    if kind != "default":
        writer.add_rope_scaling_type(RopeScalingType(kind))
        writer.add_rope_scaling_factor(4.0)
    if kind == "yarn":
        writer.add_rope_scaling_orig_ctx_len(ORIGINAL_LEN)
    return {}


@pytest.mark.parametrize(
    ("family", "rope"),
    [
        ("llama", {"rope_type": "default"}),
        ("llama", {"rope_type": "llama3", "original_max_position_embeddings": 64, **LLAMA3}),
        ("llama", {"rope_type": "linear", "factor": 4.0}),
        ("qwen2", {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}),
    ],
    ids=lambda value: value if isinstance(value, str) else value["rope_type"],
)
def test_the_rotary_embedding_is_scaled_as_the_file_says(
    family: str, rope: dict[str, Any], tmp_path: Path
) -> None:
    folder, file = tmp_path / "checkpoint", tmp_path / "model.gguf"
    model = tiny_model(family, folder, rope_parameters={"rope_theta": 1e4, **rope})
    gguf = GgufFile(file, model, family)
    gguf.bytes_tokenizer()
    gguf.write(more=scaled(rope["rope_type"], gguf.writer))
    convert_gguf(file, tmp_path / "converted")
    torch.testing.assert_close(logits(tmp_path / "converted"), logits(folder), atol=1e-3, rtol=1e-3)


def test_a_scaling_that_is_not_known_is_refused(tmp_path: Path) -> None:
    gguf = GgufFile(tmp_path / "model.gguf", tiny_model("qwen2", tmp_path / "model"), "qwen2")
    gguf.bytes_tokenizer()
    gguf.writer.add_rope_scaling_type(RopeScalingType.YARN)
    gguf.writer.add_float32("qwen2.rope.scaling.yarn_log_multiplier", 0.1)
    gguf.write()
    with pytest.raises(ModelError, match="yarn_log_multiplier, which is not supported"):
        convert_gguf(tmp_path / "model.gguf", tmp_path / "converted")


def test_all_tokens_that_end_an_answer_are_kept(tmp_path: Path) -> None:
    gguf = GgufFile(tmp_path / "model.GGUF", tiny_model("llama", tmp_path / "model"))
    gguf.bytes_tokenizer()
    gguf.writer.add_eot_token_id(7)
    gguf.writer.add_uint32("tokenizer.ggml.eom_token_id", 8)
    gguf.write()
    folder = resolve(str(tmp_path / "model.GGUF"), tmp_path)
    generation = json.loads((folder / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [1, 7, 8]


def test_a_tensor_that_is_missing_is_named(tmp_path: Path) -> None:
    gguf = GgufFile(tmp_path / "model.gguf", tiny_model("qwen2", tmp_path / "model"), "qwen2")
    gguf.bytes_tokenizer()
    gguf.write(without="blk.1.ffn_down.weight")
    with pytest.raises(ModelError, match=r"missing \(model\.layers\.1\.mlp\.down_proj\.weight\)"):
        convert_gguf(tmp_path / "model.gguf", tmp_path / "converted")
    assert not (tmp_path / "converted").exists()


def test_a_part_of_a_model_is_refused(tmp_path: Path) -> None:
    gguf = GgufFile(tmp_path / "model.gguf", tiny_model("llama", tmp_path / "model"), parts=3)
    gguf.bytes_tokenizer()
    gguf.write()
    parts = sorted(tmp_path.glob("*.gguf"))
    assert len(parts) == 3
    for number, part in enumerate(parts, 1):
        with pytest.raises(ModelError, match=f"part {number} of 3: join the parts"):
            convert_gguf(part, tmp_path / "converted")


@pytest.mark.parametrize("broken", ["empty", "short", "shorter", "other", "architecture"])
def test_a_broken_file_is_one_line(broken: str, tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    gguf = GgufFile(file, tiny_model("llama", tmp_path / "model"))
    gguf.bytes_tokenizer()
    gguf.write()
    whole = file.read_bytes()
    contents = {
        "empty": b"",
        "short": whole[:-1000],
        "shorter": whole[:3000],
        "other": b"something else, but long enough" * 100,
        "architecture": whole.replace(b"llama", b"nobel"),
    }
    file.write_bytes(contents[broken])
    command = [sys.executable, "-m", "bros.workers.models.fetch", str(file), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"error: {file}")
    assert "download the file again" in last


@pytest.mark.parametrize("begins", [None, False, True])
def test_the_flag_of_the_token_that_begins_a_text(begins: bool | None, tmp_path: Path) -> None:
    gguf = GgufFile(tmp_path / "model.gguf", tiny_model("llama", tmp_path / "model"))
    gguf.bytes_tokenizer()
    if begins is not None:
        gguf.writer.add_add_bos_token(begins)
    gguf.write()
    convert_gguf(tmp_path / "model.gguf", tmp_path / "converted")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "converted")
    ids = tokenizer.encode("hello")
    assert (ids[0] == 0) == bool(begins)
    assert tokenizer.decode(ids, skip_special_tokens=True) == "hello"
    assert len(tokenizer) == VOCABULARY


@pytest.mark.parametrize("space", [None, False, True])
def test_the_flag_of_the_space_before_a_text(space: bool | None, tmp_path: Path) -> None:
    gguf = GgufFile(tmp_path / "model.gguf", tiny_model("llama", tmp_path / "model"))
    gguf.spm_tokenizer()
    if space is not None:
        gguf.writer.add_add_space_prefix(space)
    gguf.write()
    convert_gguf(tmp_path / "model.gguf", tmp_path / "converted")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "converted")
    ids = tokenizer.encode("a b")
    first = "a" if space is False else "\u2581a"
    assert tokenizer.convert_ids_to_tokens(ids) == ["<s>", first, "\u2581b"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "a b"
    assert len(tokenizer) == VOCABULARY
