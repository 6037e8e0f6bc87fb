"""All files of a model that name end tokens count, for answers and for grammars alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from llguidance import LLMatcher
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from bros.brosd.protocol.end_tokens import end_tokens
from bros.brosd.protocol.grammars import load_tokenizer
from bros.brosd.tokenizer.generation.codec import Codec, TextError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A byte-level tokenizer whose own end token is the last."""
    vocabulary = {char: i for i, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")
    fast.save_pretrained(tmp_path)
    return tmp_path


def write(path: Path, **content: Any) -> None:
    path.write_text(json.dumps(content))


OWN = 256


@pytest.mark.parametrize(
    ("generation", "config", "expected"),
    [
        (None, {}, [OWN]),
        ({"eos_token_id": 5}, {}, [5, OWN]),
        (None, {"eos_token_id": [7, 6]}, [6, 7, OWN]),
        ({"eos_token_id": [5]}, {"eos_token_id": 6}, [5, 6, OWN]),
        ({"eos_token_id": None}, {"eos_token_id": -1}, [OWN]),
        (None, {"text_config": {"eos_token_id": 8}}, [8, OWN]),
    ],
)
def test_all_files_are_united_in_both_processes(
    folder: Path, generation: Any, config: Any, expected: list[int]
) -> None:
    if generation is not None:
        write(folder / "generation_config.json", **generation)
    write(folder / "config.json", **config)
    assert end_tokens(folder) == expected
    assert Codec(folder).eos_ids == expected
    matcher = LLMatcher(load_tokenizer(folder), LLMatcher.grammar_from_regex("x"))
    letter = Codec(folder).encode("x")
    assert matcher.consume_tokens(letter)
    allowed = matcher.compute_bitmask()
    assert [id for id in range(OWN + 1) if allowed[id // 8] >> id % 8 & 1] == expected


def test_a_file_that_is_not_json_is_an_error(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json"):
        end_tokens(folder)
    with pytest.raises(TextError, match=r"config\.json"):
        Codec(folder)
