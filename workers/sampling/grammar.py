"""Keeps rows to their grammars: llguidance says which tokens may come next.

A grammar's state depends only on the row's output so far, so a worker that takes over a row can
rebuild it from the known tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from llguidance import LLMatcher

from bros.brosd.protocol.grammars import check, load_tokenizer, make_matcher


class Grammars:
    """Makes matchers. Loads the tokenizer that they need in the background."""

    def __init__(self, folder: Path) -> None:
        with ThreadPoolExecutor(1) as thread:
            self._tokenizer = thread.submit(load_tokenizer, folder)
            thread.shutdown(wait=False)

    def matcher(self, grammar: str, output: Sequence[int] | np.ndarray) -> LLMatcher | None:
        """Return the state of a grammar after `output`; None if there is no grammar.

        Raise GrammarError if the grammar cannot be followed.
        """
        if not grammar:
            return None
        matcher = make_matcher(self._tokenizer.result(), grammar)
        matcher.consume_tokens([int(token) for token in output])
        check(matcher)
        return matcher


def restrict(logits: torch.Tensor, matchers: Sequence[LLMatcher | None]) -> None:
    """Rule out what each row's grammar forbids, in place. `logits` is (rows, vocabulary)."""
    kept = [(row, matcher) for row, matcher in enumerate(matchers) if matcher is not None]
    if not kept:
        return
    masks = np.stack([np.frombuffer(matcher.compute_bitmask(), np.uint8) for _, matcher in kept])
    allowed = np.zeros((len(kept), logits.shape[1]), bool)  # the tokenizer may have more or fewer
    bits = np.unpackbits(masks, axis=1, bitorder="little")[:, : logits.shape[1]]
    allowed[:, : bits.shape[1]] = bits
    rows = torch.tensor([row for row, _ in kept], device=logits.device)
    forbidden = torch.from_numpy(~allowed).to(logits.device)
    logits[rows] = logits[rows].masked_fill(forbidden, -torch.inf)


def advance(matchers: Sequence[LLMatcher | None], tokens: Sequence[int]) -> None:
    """Tell each row's grammar which token it has sampled."""
    for matcher, token in zip(matchers, tokens, strict=True):
        if matcher is not None and not matcher.is_stopped():
            matcher.consume_token(token)
