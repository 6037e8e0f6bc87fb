"""The sequences that a worker knows: their tokens so far, and how the next ones are drawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bros.brosd.protocol.wire import NewRow, Sampling, unpack_ids
from bros.workers.sampling.grammar import Grammars, RowGrammar
from bros.workers.sampling.sampler import Draw


@dataclass
class SequenceState:
    """One sequence: its known tokens are `tokens[:length]`, of which `num_prompt` are its prompt.

    It grows by a token each time that it samples. KV is not its concern: known tokens stay known
    when their keys and values are lost.
    """

    tokens: np.ndarray  # (max_len,), int32
    length: int
    num_prompt: int
    sampling: Sampling
    grammar: RowGrammar | None = None

    def append(self, token: int) -> None:
        """Add a token that was sampled, unless the sequence is as long as it may become."""
        if self.length < len(self.tokens):
            self.tokens[self.length] = token
            self.length += 1

    def draw(self) -> Draw:
        """Return what the sampler must know to draw the next token."""
        known = self.tokens[: self.length]
        return Draw(self.sampling, known, self.num_prompt, self.grammar)


class Sequences:
    """The sequences in the rows of the block table, each of up to `max_len` tokens."""

    def __init__(self, max_len: int, grammars: Grammars) -> None:
        self._max_len = max_len
        self._grammars = grammars
        self._by_row: dict[int, SequenceState] = {}

    def open(self, new_rows: list[NewRow]) -> None:
        """Take in the sequences that a plan brings along; each replaces its row's last one."""
        for new_row in new_rows:
            self._by_row[new_row.row] = self._known(new_row)

    def of(self, rows: np.ndarray) -> list[SequenceState]:
        """Return the sequences in `rows`, in that order."""
        return [self._by_row[int(row)] for row in rows]

    def _known(self, new_row: NewRow) -> SequenceState:
        tokens = np.empty(self._max_len, np.int32)
        known = unpack_ids(new_row.tokens)
        tokens[: len(known)] = known
        output = known[new_row.num_prompt :]
        grammar = self._grammars.of_row(new_row.sampling.grammar, output)
        return SequenceState(tokens, len(known), new_row.num_prompt, new_row.sampling, grammar)
