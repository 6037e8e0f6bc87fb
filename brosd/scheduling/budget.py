"""What one iteration has room for: tokens, sequences, and seconds by the cost model."""

from __future__ import annotations

import math

from bros.brosd.scheduling.cost_model import CostModel, IterationLoad

MIN_CHUNK = 16  # tokens: a shorter chunk, unless it is a prompt's last, costs more than it brings


class Budget:
    """Fills up as chunks are planned. `limit_s` is infinite if the policy ignores time."""

    def __init__(
        self, cost: CostModel, limit_s: float, max_tokens: int, max_sequences: int
    ) -> None:
        self._cost = cost
        self._tokens = max_tokens
        self._sequences = max_sequences
        self.left_s = limit_s - cost.base_s
        self.spent_s = cost.base_s
        self.load = IterationLoad()
        self.empty = True
        self._least_s = -math.inf  # time without which nothing more fits
        self._first_s = cost.chunk_s(0, 1)  # of a decode, by its context: first and next key
        self._next_s = cost.chunk_s(1, 1) - self._first_s

    @property
    def is_spent(self) -> bool:
        """Whether nothing more can be planned."""
        if self._tokens <= 0 or self._sequences <= 0:
            return True
        return self.left_s < self._least_s and not self.empty

    def fit(self, start: int, known: int, urgent: bool) -> int:
        """How many of the tokens `[start, known)` fit; 0 if none, or too few to be worth it.

        An urgent request gets a short chunk even if the time is up, and so does the first.
        """
        missing = known - start
        least = min(missing, MIN_CHUNK)
        count = min(missing, self._tokens)
        if self.left_s < math.inf:
            count = min(count, self._affordable(start, missing))
            if count < least and (urgent or self.empty):
                count = min(least, self._tokens)
        else:
            least = 1
        return count if count >= min(least, self._tokens) else 0

    def _affordable(self, start: int, missing: int) -> int:
        if missing == 1:
            return int(self._decode_s(start) <= self.left_s)
        return self._cost.count_within(start, self.left_s)

    def _decode_s(self, start: int) -> float:
        return self._first_s + start * self._next_s

    def fits_decode(self, start: int, urgent: bool) -> bool:
        """`fit` for a single token."""
        return self._tokens > 0 and (urgent or self.empty or self._decode_s(start) <= self.left_s)

    def take(self, start: int, count: int) -> None:
        """A chunk is planned."""
        seconds = self._decode_s(start) if count == 1 else self._cost.chunk_s(start, count)
        self.left_s -= seconds
        self.spent_s += seconds
        self._tokens -= count
        self._sequences -= 1
        self.load.add(start, count)
        self.empty = False

    def narrow(self, limit_s: float, least_s: float) -> None:
        """Let the iteration take `limit_s` at most from now on, but leave at least `least_s`.

        Nothing urgent may come after that.
        """
        self.left_s = max(min(self.left_s, limit_s - self.spent_s), least_s)
        self._least_s = self._first_s


class BeCredit:
    """What BE lacks to its floor, a share of all time. It has that later, before other limits."""

    def __init__(self, floor: float) -> None:
        self._floor = floor
        self.seconds = 0.0

    def settle(self, spent_s: float, be_s: float, wanted: bool) -> None:
        """Of `spent_s`, BE has had `be_s`. Nothing is owed to it unless it has work."""
        owed_s = self.seconds + self._floor * spent_s - be_s
        self.seconds = max(0.0, owed_s) if wanted else 0.0
