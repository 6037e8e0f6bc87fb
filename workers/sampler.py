"""Draws the next token of each row from its logits, vectorised over the batch.

A draw is a function of the row's seed and the token's position alone, so a seed gives the same
text whatever else is in the batch, and again after a recompute or in another worker.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from bros.brosd.wire import Sampling

MASK_64 = 2**64 - 1


@dataclass(frozen=True)
class Draw:
    """One row that samples: its parameters and its known tokens, the prompt's first."""

    sampling: Sampling
    tokens: np.ndarray  # (known,), int32
    num_prompt: int


def sample(logits: torch.Tensor, draws: list[Draw]) -> torch.Tensor:
    """Token ids (rows,), int64, from `logits` (rows, vocabulary), float32, which it may change.

    In vLLM's order: penalties, temperature, then top-k, top-p and min-p.
    """
    _penalise(logits, draws)
    ids = logits.argmax(dim=-1)
    random = [i for i, draw in enumerate(draws) if draw.sampling.temperature > 0]
    if not random:
        return ids
    chosen = [draws[i] for i in random]
    scaled = logits[random] / _column(chosen, lambda s: s.temperature)
    points = torch.tensor([_uniform(d.sampling.seed, len(d.tokens)) for d in chosen])
    narrow = [i for i, draw in enumerate(chosen) if _is_narrow(draw.sampling)]
    wide = [i for i, draw in enumerate(chosen) if not _is_narrow(draw.sampling)]
    picked = torch.empty(len(chosen), dtype=torch.int64)
    if wide:
        picked[wide] = _pick(scaled[wide].softmax(dim=-1), points[wide])
    if narrow:
        picked[narrow] = _pick_narrow(scaled[narrow], points[narrow], [chosen[i] for i in narrow])
    ids[random] = picked
    return ids


def _column(draws: list[Draw], get: Callable[[Sampling], float]) -> torch.Tensor:
    return torch.tensor([get(draw.sampling) for draw in draws], dtype=torch.float32)[:, None]


def _is_narrow(sampling: Sampling) -> bool:
    return sampling.top_k > 0 or sampling.top_p < 1 or sampling.min_p > 0


def _pick(probabilities: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Where the running sum of each row passes its point in [0, 1)."""
    sums = probabilities.double().cumsum(dim=-1)
    target = points.double()[:, None] * sums[:, -1:]
    found = torch.searchsorted(sums, target, right=True)[:, 0]
    return found.clamp_(max=probabilities.shape[1] - 1)


def _pick_narrow(scaled: torch.Tensor, points: torch.Tensor, draws: list[Draw]) -> torch.Tensor:
    """As `_pick`, among the tokens that top-k, top-p and min-p leave."""
    ordered, order = scaled.sort(dim=-1, descending=True, stable=True)
    top_k = _column(draws, lambda s: s.top_k or scaled.shape[1]).long()
    rank = torch.arange(scaled.shape[1])[None]
    ordered = ordered.masked_fill(rank >= top_k, -torch.inf)
    p = ordered.softmax(dim=-1)
    before = p.cumsum(dim=-1) - p  # mass of the likelier tokens; 0 for the first, which stays
    out = (before >= _column(draws, lambda s: s.top_p)) | (
        p < _column(draws, lambda s: s.min_p) * p[:, :1]
    )
    out[:, 0] = False
    place = _pick(p.masked_fill(out, 0.0), points)
    return order.gather(1, place[:, None])[:, 0]


def _penalise(logits: torch.Tensor, draws: list[Draw]) -> None:
    """Repetition penalty over all known tokens; frequency and presence over the output."""
    for row, draw in zip(logits, draws, strict=True):
        sampling = draw.sampling
        if sampling.repetition_penalty != 1:
            seen = torch.from_numpy(np.unique(draw.tokens)).long()
            values = row[seen]
            factor = sampling.repetition_penalty
            row[seen] = torch.where(values > 0, values / factor, values * factor)
        if sampling.frequency_penalty or sampling.presence_penalty:
            ids, counts = np.unique(draw.tokens[draw.num_prompt :], return_counts=True)
            penalty = sampling.frequency_penalty * counts + sampling.presence_penalty
            row[torch.from_numpy(ids).long()] -= torch.from_numpy(penalty.astype(np.float32))


def _uniform(seed: int, position: int) -> float:
    """A number in [0, 1) that (seed, position) determine: two rounds of SplitMix64."""
    return (_mix(_mix(seed & MASK_64) ^ position) >> 40) / 2**24


def _mix(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) & MASK_64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK_64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK_64
    return x ^ (x >> 31)
