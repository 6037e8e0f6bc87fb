"""How long an iteration takes: predicted from what is in it, learnt from those that have run.

    T = s * (c0 + c1 * decode tokens + c2 * prefill tokens + c3 * context read
             + c4 * sum(chunk * (past + chunk / 2)) + c5 * copied blocks)

Weighted non-negative least squares over the past, which fades: weights are 1 / T**2, so that
relative errors count, and old iterations lose half their weight in a few hundred new ones. A little
evidence never fades, so that a term keeps its value however long no iteration shows it. `s`, the
slowness, follows the last ten or so: what else a host does comes and goes within seconds.

No function here raises an exception, whatever the clock does: a measurement that is no duration is
not learnt from.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from operator import mul

import numpy as np

FADING = 0.997
KEPT = 0.01  # the share of a profile's evidence that never fades: less than one iteration
REFIT_EVERY = 8  # iterations
SWEEPS = 20  # of coordinate descent; it starts from the last solution
WINDOW = 200  # residuals that the margin and the reported error are taken from
FOLLOWING = 0.1  # of a surprise, the logarithm of measured over predicted, goes into the slowness
RETURNING = 0.01  # of the slowness' logarithm is forgotten: what lasts is for the coefficients
SURPRISE = 0.3  # the most that counts as one: a single hiccup says little
SHORTEST_S, LONGEST_S = 1e-4, 1e4  # what an iteration is taken to last at least and at most
PRIOR_WEIGHT = 1e-5  # of the guess, in iterations: real ones outweigh it at once
LEAST = 1e-12  # seconds: a guess below is as sure as this one
MANY = 2**31  # tokens: more than any chunk has
# Seconds; the guess of a small model on two cores, until the profile is in.
GUESS = (0.02, 1e-3, 1e-3, 5e-6, 5e-9, 2e-4)


def is_duration(seconds: float) -> bool:
    """Whether an iteration can have taken so long; not if a clock was set meanwhile."""
    return 0 < seconds < math.inf


@dataclass
class IterationLoad:
    """What an iteration has to do. `work`: queries times keys of prefill chunks."""

    decode_tokens: float = 0.0
    prefill_tokens: float = 0.0
    context_read: float = 0.0
    work: float = 0.0
    copies: float = 0.0

    @property
    def features(self) -> tuple[float, ...]:
        """What the coefficients multiply, from c1 on."""
        decode, prefill = self.decode_tokens, self.prefill_tokens
        return decode, prefill, self.context_read, self.work, self.copies

    def add(self, start: int, count: int) -> None:
        """One more chunk: `count` tokens after `start` known ones."""
        if count == 1:
            self.decode_tokens += 1
        else:
            self.prefill_tokens += count
            self.work += count * (start + count / 2)
        self.context_read += start + count


class CostModel:
    """Predicts seconds; `observe` teaches it."""

    def __init__(self, guess: tuple[float, ...] = GUESS) -> None:
        self._cost = np.array(guess)
        self._gram = np.diag(PRIOR_WEIGHT / np.square(np.maximum(self._cost, LEAST)))
        self._target = self._gram @ self._cost
        self._guessed = self._kept = (self._gram, self._target)  # evidence that does not fade
        self._slowness, self._log_slowness = 1.0, 0.0
        self._since_fit = 0
        self._errors: deque[tuple[float, float]] = deque(maxlen=WINDOW)  # predicted, measured
        self.margin_s = 0.0
        """What 95 of 100 recent iterations took at most beyond their prediction; 0 if less."""

    def predict(self, load: IterationLoad) -> float:
        """Seconds that an iteration with this load takes."""
        base_s, *each_s = self._coefficients
        seconds: float = sum(map(mul, each_s, load.features), base_s)
        return seconds

    @property
    def base_s(self) -> float:
        """Seconds of an iteration with nothing in it."""
        return self._coefficients[0]

    def chunk_s(self, start: int, count: int) -> float:
        """Seconds that `count` more tokens after `start` known ones add to an iteration."""
        _, decode, prefill, context, work, _ = self._coefficients
        if count == 1:
            return decode + context * (start + 1)
        return count * (prefill + work * (start + count / 2)) + context * (start + count)

    def count_within(self, start: int, seconds: float) -> int:
        """Return the most prefill tokens after `start` that add at most `seconds`.

        It is `chunk_s` inverted, in the form without a difference of roots; MANY if they cost
        nothing.
        """
        _, _, prefill, context, work, _ = self._coefficients
        slope = prefill + work * start + context
        left = seconds - context * start
        if not left > 0:
            return 0
        root = slope + math.sqrt(slope * slope + 2 * work * left)
        return int(min(MANY, 2 * left / root)) if root > 0 else MANY

    @property
    def _coefficients(self) -> tuple[float, ...]:
        if self._cached is None:
            self._cached = tuple((self._slowness * self._cost).tolist())
        return self._cached

    _cached: tuple[float, ...] | None = None

    def observe(self, load: IterationLoad, seconds: float) -> None:
        """Learn that an iteration with this load took so long."""
        if not is_duration(seconds):
            return
        seconds = _clamp(seconds, SHORTEST_S, LONGEST_S)
        predicted = self.predict(load)
        self._errors.append((predicted, seconds))
        surprise = math.log(seconds) - math.log(max(predicted, 1e-6))
        self._log_slowness *= 1 - RETURNING
        self._log_slowness += FOLLOWING * _clamp(surprise, -SURPRISE, SURPRISE)
        self._slowness = math.exp(self._log_slowness)
        self._cached = None
        self.learn(load, seconds)

    def learn(self, load: IterationLoad, seconds: float) -> None:
        """Learn the same of an iteration that nobody's prediction was for, as of a profile."""
        if not is_duration(seconds):
            return
        seconds = _clamp(seconds, SHORTEST_S, LONGEST_S) / self._slowness
        features = np.array((1.0, *load.features))
        weight = 1 / seconds**2
        gram, target = self._kept
        self._gram = FADING * self._gram + weight * np.outer(features, features)
        self._gram += (1 - FADING) * gram
        self._target = FADING * self._target + weight * seconds * features
        self._target += (1 - FADING) * target
        self._since_fit += 1
        if self._since_fit >= REFIT_EVERY:
            self.fit()

    def keep(self) -> None:
        """Solve, and let a share of the evidence never fade from now on: it is a profile's."""
        self.fit()
        gram, target = self._guessed
        self._kept = (gram + KEPT * self._gram, target + KEPT * self._target)

    def fit(self) -> None:
        """Solve for the coefficients, all at least zero."""
        self._since_fit = 0
        cost: list[float] = self._cost.tolist()
        gram: list[list[float]] = self._gram.tolist()
        target: list[float] = self._target.tolist()
        for _ in range(SWEEPS):
            for i, row in enumerate(gram):
                if row[i] > 0:
                    rest = target[i] - sum(map(mul, row, cost)) + row[i] * cost[i]
                    cost[i] = max(0.0, rest / row[i])
        self._cost = np.array(cost)
        self._cached = None
        late = [measured - predicted for predicted, measured in self._errors]
        self.margin_s = max(0.0, float(np.quantile(late, 0.95))) if late else 0.0

    # -- how good it is --------------------------------------------------------------------------

    @property
    def relative_errors(self) -> tuple[float, float]:
        """Mean and 95th percentile of |predicted - measured| / measured, of recent iterations.

        Each was predicted before it ran, so all are held out.
        """
        errors = [abs(predicted - measured) / measured for predicted, measured in self._errors]
        return (float(np.mean(errors)), float(np.quantile(errors, 0.95))) if errors else (0.0, 0.0)


def _clamp(value: float, least: float, most: float) -> float:
    return min(most, max(least, value))
