"""Keeps rows to their grammars: llguidance says which tokens may come next.

A grammar's state depends only on the row's output so far, so a worker that takes over a row can
rebuild it from the known tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer


class _Ends(msgspec.Struct):
    """The part of a model's JSON files that names the tokens which end an answer."""

    eos_token_id: int | list[int] | None = None


class Grammars:
    """Makes matchers. Loads the tokenizer that they need in the background."""

    def __init__(self, folder: Path, vocab_size: int) -> None:
        with ThreadPoolExecutor(1) as thread:
            self._tokenizer = thread.submit(load_tokenizer, folder, vocab_size)
            thread.shutdown(wait=False)

    def matcher(self, grammar: str, output: Sequence[int] | np.ndarray) -> LLMatcher | None:
        """Return the state of a grammar after `output`; None if there is no grammar."""
        if not grammar:
            return None
        matcher = LLMatcher(self._tokenizer.result(), grammar, log_level=0)
        matcher.consume_tokens([int(token) for token in output])
        return matcher


def load_tokenizer(folder: Path, vocab_size: int) -> LLTokenizer:
    """Return the model's tokenizer in the form that grammars need."""
    text = (folder / "tokenizer.json").read_text()
    return LLTokenizer(text, n_vocab=vocab_size, eos_token=_eos_ids(folder) or None)


def _eos_ids(folder: Path) -> list[int]:
    ids: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        if path.is_file():
            eos = msgspec.json.decode(path.read_bytes(), type=_Ends).eos_token_id
            ids |= {eos} if isinstance(eos, int) else set(eos or ())
    return sorted(ids)


def restrict(logits: torch.Tensor, matchers: Sequence[LLMatcher | None]) -> None:
    """Rule out what each row's grammar forbids, in place. `logits` is (rows, vocabulary)."""
    kept = [(row, matcher) for row, matcher in enumerate(matchers) if matcher is not None]
    if not kept:
        return
    masks = np.stack([np.frombuffer(matcher.compute_bitmask(), np.uint8) for _, matcher in kept])
    allowed = np.unpackbits(masks, axis=1, bitorder="little")[:, : logits.shape[1]].astype(bool)
    rows = torch.tensor([row for row, _ in kept], device=logits.device)
    forbidden = torch.from_numpy(~allowed).to(logits.device)
    logits[rows] = logits[rows].masked_fill(forbidden, -torch.inf)


def advance(matchers: Sequence[LLMatcher | None], tokens: Sequence[int]) -> None:
    """Tell each row's grammar which token it has sampled."""
    for matcher, token in zip(matchers, tokens, strict=True):
        if matcher is not None and not matcher.is_stopped():
            matcher.consume_token(token)
