"""An answer of a SentencePiece model keeps the space that it begins with."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from bros.brosd.tokenizer.generation.codec import Codec
from bros.brosd.tokenizer.generation.detokenize import Detokenizer

SPACE = "\u2581"
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
WORDS = [SPACE, "a", "b", f"{SPACE}a", f"{SPACE}b", "ab"]
TOKENS = ["<unk>", "<s>", "</s>", *BYTES, *WORDS]


def save(folder: Path, kind: str) -> None:
    """Write a tokenizer as Llama 2 has it, in the older layout or in the newer one."""
    merges = [(SPACE, "a"), (SPACE, "b"), ("a", "b")]
    vocabulary = {token: i for i, token in enumerate(TOKENS)}
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", byte_fallback=True)
    )
    strip = decoders.Strip(" ", 1, 0)
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), strip]
    if kind == "prepend":
        replace = normalizers.Replace(" ", SPACE)
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), replace])
    if kind == "metaspace":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    if kind == "no prefix":
        tokenizer.normalizer = normalizers.Replace(" ", SPACE)
        del steps[-1]
    tokenizer.decoder = decoders.Sequence(steps)
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)


@pytest.mark.parametrize("kind", ["prepend", "metaspace", "no prefix"])
@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ([f"{SPACE}a", "b"], " ab"),
        (["b", f"{SPACE}a"], "b a"),
        ([SPACE, f"{SPACE}a"], "  a"),
        (["</s>", f"{SPACE}a"], " a"),
        ([f"{SPACE}a", "<0xC3>", "<0xA9>"], " a\u00e9"),
        (["<0xC3>", "<0xA9>", f"{SPACE}b"], "\u00e9 b"),
    ],
)
def test_the_first_space_is_kept(kind: str, answer: list[str], text: str, tmp_path: Path) -> None:
    save(tmp_path, kind)
    codec = Codec(tmp_path)
    ids = [TOKENS.index(token) for token in answer]
    detokenizer = Detokenizer(codec.decode)
    pieces = [*(detokenizer.push(token) for token in ids), detokenizer.finish()]
    assert "".join(pieces) == codec.decode(ids) == text


@pytest.mark.parametrize("kind", ["prepend", "metaspace", "no prefix"])
def test_a_whole_text_has_no_space_before(kind: str, tmp_path: Path) -> None:
    save(tmp_path, kind)
    codec = Codec(tmp_path)
    assert codec.decode_all(codec.encode("ab a")) == "ab a"
