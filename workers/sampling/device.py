"""Draws tokens on a device, in torch: only the winners leave it. See `cpu` for races."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from bros.workers.sampling.noise import gumbel
from bros.workers.sampling.odds import Odds

SHORTLIST = 1024  # likeliest tokens that are tried before the whole vocabulary is sorted


def race(logits: torch.Tensor, odds: Odds) -> torch.Tensor:
    """Return token ids (rows,), int64, drawn from `logits` (rows, vocabulary), float32."""
    ids = torch.empty(len(logits), dtype=torch.int64, device=logits.device)
    for draw, narrow in ((_wide_race, False), (_narrow_race, True)):
        rows = [row for row, found in enumerate(odds.is_narrow) if found is narrow]
        if len(rows) == len(logits):
            return draw(logits, odds)
        if rows:
            ids[rows] = draw(logits[rows], odds[rows])
    return ids


def _wide_race(logits: torch.Tensor, odds: Odds) -> torch.Tensor:
    """Draw from all tokens."""
    ids = torch.arange(logits.shape[1], dtype=torch.int32, device=logits.device)
    return (logits / odds.temperatures + gumbel(odds.keys, ids[None])).argmax(dim=-1)


def _narrow_race(logits: torch.Tensor, odds: Odds, shortlist: int = SHORTLIST) -> torch.Tensor:
    """Draw from each row's candidates."""
    found = candidates(logits, odds, shortlist)
    scores = found.scaled + gumbel(odds.keys, found.ids.int())
    winners = scores.masked_fill(~found.kept, -torch.inf).argmax(dim=-1, keepdim=True)
    ids = found.ids.gather(1, winners)[:, 0]
    left = (~found.complete).nonzero()[:, 0].tolist()
    if left:
        ids[left] = _narrow_race(logits[left], odds[left], logits.shape[1])
    return ids


@dataclass(frozen=True)
class Candidates:
    """The likeliest tokens of each row, (rows, size), and which of them may win."""

    scaled: torch.Tensor  # logits by temperature
    ids: torch.Tensor
    kept: torch.Tensor
    complete: torch.Tensor  # (rows,), whether no other token may win


def candidates(logits: torch.Tensor, odds: Odds, size: int) -> Candidates:
    """Return what top-k, then top-p and min-p leave of the `size` likeliest: at least one token."""
    scaled = logits / odds.temperatures
    vocabulary = scaled.shape[1]
    size = min(size, vocabulary)
    values, ids = scaled.topk(size)
    top_k = odds.top_k.masked_fill(odds.top_k == 0, 2**31 - 1)
    within = torch.arange(size, device=scaled.device) < top_k
    # After top-k, probabilities are among the k; without it, among all.
    mass = torch.where(
        top_k <= size,
        values.masked_fill(~within, -torch.inf).logsumexp(-1, keepdim=True),
        scaled.logsumexp(-1, keepdim=True),
    )
    p = (values - mass).exp() * within
    after = p.cumsum(-1)
    likely = p >= odds.min_p * p[:, :1]
    kept = within & (after - p < odds.top_p) & likely  # `after - p`: of the likelier tokens
    kept[:, 0] = True
    ends = (after[:, -1:] >= odds.top_p) | ~likely[:, -1:]
    complete = (top_k <= size) | ((top_k >= vocabulary) & ends) | (size == vocabulary)
    return Candidates(values, ids, kept, complete[:, 0])
