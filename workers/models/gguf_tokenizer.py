"""The tokenizer of a GGUF file, with the flags that the file sets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SPECIAL = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}  # ours: the file's


def save_tokenizer(file: Path, fields: Mapping[str, Any], folder: Path) -> None:
    """Write the tokenizer of a GGUF file, whose metadata is `fields`, into a folder."""
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    made = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    tokens: list[str] = fields["tokenizer.ggml.tokens"]
    special = {
        f"{ours}_token": tokens[fields[key]]
        for ours, name in SPECIAL.items()
        if (key := f"tokenizer.ggml.{name}_token_id") in fields
    }
    parts = json.loads(made.backend_tokenizer.to_str())
    # The class of tokenizer that transformers chose adds tokens of its own, which no model knows.
    parts["added_tokens"] = [added for added in parts["added_tokens"] if added["id"] < len(tokens)]
    if not fields.get("tokenizer.ggml.add_space_prefix", True):
        _without_space_first(parts)
    parts["post_processor"] = None
    backend = Tokenizer.from_str(json.dumps(parts))
    around = _around(fields, special)
    if around:
        backend.post_processor = around
    # A class of its own family would make the parts anew when it is loaded, without the flags.
    whole = PreTrainedTokenizerFast(tokenizer_object=backend, **special)
    whole.chat_template = made.chat_template
    whole.save_pretrained(folder)


def _without_space_first(parts: dict[str, Any]) -> None:
    """Change a SentencePiece tokenizer so that it puts no space before a text."""
    for name in ("normalizer", "pre_tokenizer", "decoder"):
        part = parts[name] or {}
        steps = part.get("normalizers") or part.get("pretokenizers") or part.get("decoders")
        for step in steps or [part]:
            if step.get("type") == "Metaspace":
                step["prepend_scheme"] = "never"
        if steps:
            steps[:] = [step for step in steps if step["type"] not in ("Prepend", "Strip")]
        elif part.get("type") == "Prepend":
            parts[name] = None


def _around(fields: Mapping[str, Any], special: Mapping[str, str]) -> Any:
    """Return what puts the tokens of beginning and end around a text, as the file says."""
    from tokenizers.processors import TemplateProcessing

    # Older files have no flag: SentencePiece vocabularies have a token that begins a text.
    default = fields.get("tokenizer.ggml.model") == "llama"
    bos = bool(fields.get("tokenizer.ggml.add_bos_token", default)) and "bos_token" in special
    eos = bool(fields.get("tokenizer.ggml.add_eos_token", False)) and "eos_token" in special
    kinds = ["bos"] * bos + ["eos"] * eos
    if not kinds:
        return None
    before = [special["bos_token"]] if bos else []
    after = [special["eos_token"]] if eos else []
    ids = {
        special[f"{kind}_token"]: int(fields[f"tokenizer.ggml.{kind}_token_id"]) for kind in kinds
    }
    return TemplateProcessing(
        single=[*before, "$A", *after],
        pair=[*before, "$A", *after, *(f"{token}:1" for token in before), "$B:1", *after],
        special_tokens=list(ids.items()),
    )
