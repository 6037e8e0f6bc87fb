"""How long an iteration takes: predicted from what is in it, learnt from those that have run.

    T = s * (c0 + c1 * decode tokens + c2 * prefill tokens + c3 * context read
             + c4 * sum(chunk * (past + chunk / 2)) + c5 * copied blocks)

Weighted non-negative least squares over the past, which fades: weights are 1 / T**2, so that
relative errors count, and old iterations lose half their weight in a few hundred new ones. `s`, the
slowness, follows the last ten or so: what else a host does comes and goes within seconds.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from operator import mul

import numpy as np

FADING = 0.997
REFIT_EVERY = 8  # iterations
SWEEPS = 20  # of coordinate descent; it starts from the last solution
WINDOW = 200  # residuals that the margin and the reported error are taken from
FOLLOWING = 0.1  # of a surprise, the logarithm of measured over predicted, goes into the slowness
SURPRISE = 0.3  # the most that counts as one: a single hiccup says little
PRIOR_WEIGHT = 0.1  # of the guess, in iterations: real ones outweigh it at once
# Seconds; the guess of a small model on two cores, until the profile is in.
GUESS = (0.02, 1e-3, 1e-3, 5e-6, 5e-9, 2e-4)


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

    def __init__(self) -> None:
        self._cost = np.array(GUESS)
        scale = PRIOR_WEIGHT / np.square(self._cost)
        self._gram = np.diag(scale / 1e4)
        self._target = self._gram @ self._cost
        self._slowness = 1.0
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
        """The most prefill tokens after `start` that add at most `seconds`: `chunk_s` inverted."""
        _, _, prefill, context, work, _ = self._coefficients
        half, slope = work / 2, prefill + work * start + context
        left = seconds - context * start
        if left <= 0:
            return 0
        if half * left < 1e-12 * slope * slope:  # as good as linear
            return int(left / slope) if slope > 0 else 2**31
        return int((math.sqrt(slope * slope + 4 * half * left) - slope) / (2 * half))

    @property
    def _coefficients(self) -> tuple[float, ...]:
        if self._cached is None:
            self._cached = tuple((self._slowness * self._cost).tolist())
        return self._cached

    _cached: tuple[float, ...] | None = None

    def observe(self, load: IterationLoad, seconds: float) -> None:
        """An iteration with this load took so long."""
        predicted = self.predict(load)
        self._errors.append((predicted, seconds))
        surprise = math.log(max(seconds, 1e-6) / max(predicted, 1e-6))
        self._slowness *= math.exp(FOLLOWING * min(SURPRISE, max(-SURPRISE, surprise)))
        self._cached = None
        self.learn(load, seconds)

    def learn(self, load: IterationLoad, seconds: float) -> None:
        """The same, of an iteration that was not predicted for anybody, as of a profile."""
        seconds /= self._slowness
        features = np.array((1.0, *load.features))
        weight = 1 / max(seconds, 1e-6) ** 2
        self._gram = FADING * self._gram + weight * np.outer(features, features)
        self._target = FADING * self._target + weight * seconds * features
        self._since_fit += 1
        if self._since_fit >= REFIT_EVERY:
            self.fit()

    def fit(self) -> None:
        """Solve for the coefficients, all at least zero."""
        self._since_fit = 0
        cost = self._cost
        for _ in range(SWEEPS):
            for i in range(len(cost)):
                if self._gram[i, i] > 0:
                    rest = self._target[i] - self._gram[i] @ cost + self._gram[i, i] * cost[i]
                    cost[i] = max(0.0, rest / self._gram[i, i])
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
