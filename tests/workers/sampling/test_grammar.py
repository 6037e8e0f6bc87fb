"""A row follows its grammar, and one that cannot fails alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from llguidance import LLMatcher
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from bros.brosd.protocol.wire import Sampling
from bros.workers.sampling.grammar import Grammars, RowGrammar
from bros.workers.sampling.sampler import Draw, draw_all

EOS = "<eos>"
GREEDY = Sampling(temperature=0.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a tokenizer of 257 tokens: the bytes, and the end of an answer."""
    path = tmp_path_factory.mktemp("tokenizer")
    names = [*sorted(pre_tokenizers.ByteLevel.alphabet()), EOS]
    vocabulary = {name: index for index, name in enumerate(names)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([EOS])
    tokenizer.save(str(path / "tokenizer.json"))
    (path / "config.json").write_text(json.dumps({"eos_token_id": [vocabulary[EOS], 9999]}))
    return path


def id_of(folder: Path, text: str) -> int:
    ids: list[int] = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids
    (token,) = ids
    return token


def row_grammar(folder: Path, schema: dict[str, Any], output: list[int]) -> RowGrammar:
    grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema))
    row = Grammars(folder).of_row(grammar, output)
    assert row is not None
    return row


def draw(grammar: RowGrammar | None) -> Draw:
    return Draw(GREEDY, np.zeros(2, np.int32), 1, grammar)


def optional(count: int) -> dict[str, Any]:
    return {"type": "object", "properties": {f"p{i}": {"type": "integer"} for i in range(count)}}


def test_a_row_whose_grammar_fails_hurts_no_other(folder: Path) -> None:
    logits = torch.zeros(5, 257)
    logits[:, 7] = 1.0
    brace = id_of(folder, "{")
    broken = Grammars(folder).of_row("no grammar", [])
    grammars = [
        None,
        broken,
        row_grammar(folder, optional(600), [brace]),  # too many ways to go on
        row_grammar(folder, {"type": "object"}, [9999]),  # no token of the tokenizer
        row_grammar(folder, {"type": "object"}, []),
    ]
    choice = draw_all(logits, [draw(grammar) for grammar in grammars])
    assert choice.tokens[0] == 7
    assert choice.tokens[4] == brace
    assert [item.index for item in choice.failed] == [1, 2, 3]
    assert "Current row has" in choice.failed[1].reason
    assert all(item.reason and "\n" not in item.reason for item in choice.failed)


@pytest.mark.parametrize("vocab_size", [250, 300])
def test_a_model_may_have_fewer_tokens_than_its_tokenizer_or_more(
    folder: Path, vocab_size: int
) -> None:
    logits = torch.zeros(2, vocab_size)
    logits[:, -1] = 1.0
    grammar = row_grammar(folder, {"type": "object"}, [])
    choice = draw_all(logits, [draw(grammar), draw(None)])
    assert choice.tokens == [id_of(folder, "{"), vocab_size - 1]
    assert choice.failed == []


def test_a_grammar_that_needs_a_token_that_the_model_lacks_fails(folder: Path) -> None:
    brace = id_of(folder, "{")
    grammar = row_grammar(folder, {"type": "object"}, [])
    (failed,) = draw_all(torch.zeros(1, brace), [draw(grammar)]).failed
    assert failed.reason == "the grammar allows no token that the model has"


def test_a_folder_without_a_tokenizer_fails_rows_with_grammars_only(tmp_path: Path) -> None:
    choice = draw_all(
        torch.zeros(2, 9), [draw(row_grammar(tmp_path, {"type": "object"}, [])), draw(None)]
    )
    assert [item.index for item in choice.failed] == [0]
    assert "no tokenizer.json" in choice.failed[0].reason


def test_rows_of_one_request_share_a_compiled_grammar_and_no_state(folder: Path) -> None:
    grammar = LLMatcher.grammar_from_json_schema(json.dumps({"enum": ["a", "b"]}))
    grammars = Grammars(folder)
    rows = [grammars.of_row(grammar, []), grammars.of_row(grammar, [id_of(folder, '"')])]
    choice = draw_all(torch.zeros(2, 257), [draw(row) for row in rows])
    assert choice.tokens == [id_of(folder, '"'), id_of(folder, "a")]
    assert choice.failed == []
