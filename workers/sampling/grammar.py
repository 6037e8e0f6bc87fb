"""Keeps rows to their grammars: llguidance says which tokens may come next.

A grammar's state depends only on the row's output so far, so a worker that takes over a row can
rebuild it from the known tokens. Whatever goes wrong with a grammar is its own row's affair: the
row fails, and all others go on.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from llguidance import LLMatcher

from bros.brosd.protocol.grammars import GrammarError, check, load_tokenizer, make_matcher
from bros.brosd.protocol.wire import Failed

log = logging.getLogger(__name__)
T = TypeVar("T")

MAX_COMPILED = 16  # grammars that are kept for rows to come


class RowGrammar:
    """The state of one row's grammar. `failure` says why it cannot go on; empty if it can."""

    def __init__(
        self, start: Callable[[], LLMatcher], output: Sequence[int] | np.ndarray = ()
    ) -> None:
        """Follow the grammar whose first state is `start()` along the row's output so far."""
        self.failure = ""
        self._matcher = self._try(lambda: _after(start(), output))

    def allowed(self, vocab_size: int) -> np.ndarray | None:
        """Return which of the model's tokens may come next, bool; None if the grammar has failed.

        The tokenizer may have more tokens than the model, or fewer.
        """
        return self._try(lambda: _allowed(self._working, vocab_size))

    def advance(self, token: int) -> None:
        """Take the token that was sampled."""
        self._try(lambda: _advance(self._working, token))

    @property
    def _working(self) -> LLMatcher:
        if self.failure or self._matcher is None:
            raise GrammarError(self.failure)
        return self._matcher

    def _try(self, action: Callable[[], T]) -> T | None:
        """Do something; note the first failure, and return None then."""
        try:
            return action()
        except GrammarError as error:
            self.failure = self.failure or str(error) or "the grammar has failed"
        except Exception as error:
            log.exception("event=grammar_failed")
            self.failure = f"the grammar has failed: {type(error).__name__}"
        return None


def _after(matcher: LLMatcher, output: Sequence[int] | np.ndarray) -> LLMatcher:
    matcher.consume_tokens([int(token) for token in output])
    check(matcher)
    return matcher


def _allowed(matcher: LLMatcher, vocab_size: int) -> np.ndarray:
    mask = np.frombuffer(matcher.compute_bitmask(), np.uint8)
    check(matcher)
    bits = np.unpackbits(mask, bitorder="little")[:vocab_size]
    allowed = np.zeros(vocab_size, bool)
    allowed[: len(bits)] = bits
    if not allowed.any():
        raise GrammarError("the grammar allows no token that the model has")
    return allowed


def _advance(matcher: LLMatcher, token: int) -> None:
    if not matcher.is_stopped():
        matcher.consume_token(token)
        check(matcher)


class Grammars:
    """Makes the grammars of rows. Loads the tokenizer that they need in the background."""

    def __init__(self, folder: Path) -> None:
        with ThreadPoolExecutor(1) as thread:
            self._tokenizer = thread.submit(load_tokenizer, folder)
            thread.shutdown(wait=False)
        self._starts: OrderedDict[str, LLMatcher] = OrderedDict()  # the newest last

    def of_row(self, grammar: str, output: Sequence[int] | np.ndarray) -> RowGrammar | None:
        """Return the state of a grammar after `output`; None if there is no grammar."""
        return RowGrammar(lambda: self._start(grammar), output) if grammar else None

    def _start(self, grammar: str) -> LLMatcher:
        """Return a new matcher. A grammar is compiled once for all rows of a request.

        Raise GrammarError if it cannot be.
        """
        if grammar not in self._starts:
            self._starts[grammar] = make_matcher(self._tokenizer.result(), grammar)
        self._starts.move_to_end(grammar)
        while len(self._starts) > MAX_COMPILED:
            self._starts.popitem(last=False)
        return self._starts[grammar].deep_copy()


def restrict(logits: torch.Tensor, grammars: Sequence[RowGrammar | None]) -> None:
    """Rule out what each row's grammar forbids, in place. `logits` is (rows, vocabulary).

    Rows of grammars that have failed stay as they are.
    """
    rows, masks = [], []
    for row, grammar in enumerate(grammars):
        allowed = None if grammar is None else grammar.allowed(logits.shape[1])
        if allowed is not None:
            rows.append(row)
            masks.append(allowed)
    if not rows:
        return
    index = torch.tensor(rows, device=logits.device)
    forbidden = torch.from_numpy(~np.stack(masks)).to(logits.device)
    logits[index] = logits[index].masked_fill(forbidden, -torch.inf)


def advance(grammars: Sequence[RowGrammar | None], tokens: Sequence[int]) -> list[Failed]:
    """Tell each row's grammar which token it has sampled. Return the rows that have failed."""
    failed = []
    for index, (grammar, token) in enumerate(zip(grammars, tokens, strict=True)):
        if grammar is not None:
            grammar.advance(token)
            if grammar.failure:
                failed.append(Failed(index, grammar.failure))
    return failed
