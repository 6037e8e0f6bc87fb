"""Draws tokens on a CPU, in Numba: torch would pass over all logits twenty times, and sort them.

A draw is a race: the token with the highest score, logit plus noise, wins. top-k, top-p and min-p
leave the tokens above a threshold of likelihood; of equally likely tokens, all or none. A histogram
finds the threshold, and only the bin that it lies in is sorted.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit, prange

from bros.workers.cpu.bits import bits_of, bits_of_float, exp, load, log, order
from bros.workers.sampling.noise import ODD, SECOND, THIRD
from bros.workers.sampling.odds import Odds

CHUNK = 1024  # tokens whose scores are kept to find the winner among them
ONE = 0x3F800000  # the bits of 1.0
STEP = 19  # bits of a bin: 16 bins for each power of two
BINS = (ONE - 0x00800000 >> STEP) + 1  # from 1.0 down to the least that `exp` gives
EXACT = {"nnan", "nsz", "contract"}  # logits may be infinite, and sums keep their order


@njit(inline="always")
def _gumbel(token: Any, low: Any, high: Any) -> Any:
    """As `noise.gumbel`."""
    # Numba makes 64 bits of 32 times 32.
    x = np.uint32(np.uint32(token * np.uint32(ODD)) + low)
    x = np.uint32(np.uint32((x ^ (x >> np.uint32(16))) * np.uint32(SECOND)) + high)
    x = np.uint32((x ^ (x >> np.uint32(13))) * np.uint32(THIRD))
    x = np.uint32(x ^ (x >> np.uint32(16)))
    whole = np.float32(np.int32(x & np.uint32(0x7FFFFFFF)))
    uniform = (whole + np.float32(0.5)) * np.float32(2.0**-31)
    # log1p(-uniform), exact for small ones too: the error of 1 - uniform is divided out again.
    rest = max(np.float32(1) - uniform, np.float32(2.0**-24))
    lost = np.float32(1) - rest
    exponential = -log(rest) * (uniform / lost) if lost > 0 else uniform
    return -log(exponential)


@njit(cache=True, fastmath=EXACT, error_model="numpy")
def _score(logits: Any, first: Any, temperature: Any, low: Any, high: Any, out: Any) -> Any:
    """Write the scores of the tokens from `first` on; return the highest one's order.

    In a single loop, LLVM would vectorise nothing.
    """
    for i in range(len(out)):
        noise = _gumbel(np.uint32(first + i), low, high)
        out[i] = load(logits[first + i]) / temperature + noise
    highest = order(out[0])
    for i in range(len(out)):
        highest = max(highest, order(out[i]))
    return highest


@njit(cache=True, fastmath=EXACT, error_model="numpy")
def _wide_race(logits: Any, temperature: Any, low: Any, high: Any) -> Any:
    """Return the winner among all tokens."""
    scores = np.empty(CHUNK, np.float32)
    best, winner = order(np.float32(-np.inf)), 0
    for first in range(0, len(logits), CHUNK):
        some = scores[: min(CHUNK, len(logits) - first)]
        highest = _score(logits, first, temperature, low, high, some)
        if highest > best:
            best, i = highest, 0
            while order(some[i]) != highest:
                i += 1
            winner = first + i
    return winner


@njit(cache=True, fastmath=EXACT, error_model="numpy")
def _odds(logits: Any, temperature: Any, out: Any) -> None:
    """Write how likely each token is, relative to the likeliest."""
    highest = order(load(logits[0]))
    at = 0
    for i in range(len(logits)):
        highest = max(highest, order(load(logits[i])))
    while order(load(logits[at])) != highest:
        at += 1
    top = load(logits[at])
    for i in range(len(logits)):
        out[i] = exp((load(logits[i]) - top) / temperature)


@njit(inline="always")
def _bin(odds: Any) -> Any:
    """Return the bin; rows of NaN must not lead outside."""
    number = (np.int64(ONE) - np.int64(bits_of_float(odds))) >> STEP
    return min(max(number, 0), BINS - 1)


@njit(cache=True)
def _sorted_bin(odds: Any, number: Any, count: Any) -> Any:
    """Return the `count` odds of a bin, the highest first."""
    found = np.empty(count, np.float32)
    n = 0
    for i in range(len(odds)):
        if _bin(odds[i]) == number:
            found[n] = -odds[i]
            n += 1
    return -np.sort(found)


@njit(cache=True)
def _threshold(odds: Any, top_k: Any, top_p: Any, min_p: Any) -> Any:
    """Return the least odds of the tokens that top-k, then top-p and min-p leave."""
    counts, masses = np.zeros(BINS, np.int64), np.zeros(BINS, np.float64)
    for i in range(len(odds)):
        number = _bin(odds[i])
        counts[number] += 1
        masses[number] += odds[i]
    least = np.float32(min_p)
    mass = masses.sum()
    if 0 < top_k < len(odds):
        number, left, mass = 0, top_k, 0.0
        while counts[number] < left:
            left -= counts[number]
            mass += masses[number]
            number += 1
        likeliest = _sorted_bin(odds, number, counts[number])[:left]
        mass += likeliest.sum()
        least = max(least, likeliest[-1])
    if top_p < 1:
        number, before, last = 0, 0.0, np.float32(1)
        while number < BINS - 1 and before + masses[number] < top_p * mass:
            before += masses[number]
            number += 1
        for value in _sorted_bin(odds, number, counts[number]):
            if before >= top_p * mass:
                break
            before += value
            last = value
        least = max(least, last)
    return least


@njit(cache=True, fastmath=EXACT, error_model="numpy")
def _narrow_race(
    logits: Any, temperature: Any, top_k: Any, top_p: Any, min_p: Any, low: Any, high: Any
) -> Any:
    """Return the winner among the tokens that are likely enough."""
    odds = np.empty(len(logits), np.float32)
    _odds(logits, temperature, odds)
    least = _threshold(odds, top_k, top_p, min_p)
    best, winner = np.float32(-np.inf), 0
    for token in range(len(logits)):
        if odds[token] >= least:
            noise = _gumbel(np.uint32(token), low, high)
            score = load(logits[token]) / temperature + noise
            if score > best:
                best, winner = score, token
    return winner


@njit(parallel=True, cache=True)
def _race(
    logits: Any, temperatures: Any, top_k: Any, top_p: Any, min_p: Any, keys: Any, out: Any
) -> None:
    for row in prange(len(logits)):
        low, high, k, p = keys[row, 0], keys[row, 1], top_k[row, 0], top_p[row, 0]
        temperature, least = temperatures[row, 0], min_p[row, 0]
        if k > 0 or p < 1 or least > 0:
            out[row] = _narrow_race(logits[row], temperature, k, p, least, low, high)
        else:
            out[row] = _wide_race(logits[row], temperature, low, high)


def race(logits: torch.Tensor, odds: Odds) -> torch.Tensor:
    """Return token ids (rows,), int64, drawn from `logits` (rows, vocabulary), float32."""
    out = torch.empty(len(logits), dtype=torch.int64)
    columns = (odds.temperatures, odds.top_k, odds.top_p, odds.min_p)
    _race(
        bits_of(logits.contiguous()),
        *(column.numpy() for column in columns),
        odds.keys.view(torch.uint32).numpy(),
        out.numpy(),
    )
    return out
