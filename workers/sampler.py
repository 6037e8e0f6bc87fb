"""Draws the next token of each row from its logits.

A draw is a function of the row's seed and of the position and id of each candidate, so a seed
gives the same text whatever else is in the batch, and again after a recompute or in another
worker. Rounding differs between batches; to be blind to it as far as can be, draws are races
between tokens (Gumbel's maximum) and not points on a running sum, where every rounding error
moves all later tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from llguidance import LLMatcher
from msgspec import structs

from bros.brosd.wire import Logprobs, Sampling
from bros.workers.grammar import advance, restrict
from bros.workers.likeliest import likeliest
from bros.workers.logprobs import Observed

MASK_64 = 2**64 - 1
SHORTLIST = 1024  # likeliest tokens that are tried before the whole vocabulary is sorted


@dataclass(frozen=True)
class Draw:
    """One row that samples: its parameters and its known tokens, the prompt's first."""

    sampling: Sampling
    tokens: np.ndarray  # (known,), int32
    num_prompt: int
    matcher: LLMatcher | None = None


@dataclass(frozen=True)
class Choice:
    """The tokens that an iteration's rows sampled, and what is told of some."""

    tokens: list[int]
    logprobs: list[Logprobs]


@torch.inference_mode()
def draw_all(logits: torch.Tensor, draws: list[Draw]) -> Choice:
    """The next token of each row of `logits` (rows, vocabulary), on any device and in any type.

    Greedy rows are done where the logits are; all others are drawn on the CPU.
    """
    tokens = likeliest(logits)
    others = [i for i, draw in enumerate(draws) if not _is_greedy(draw)]
    if not others:
        return Choice(tokens, [])
    choice = choose(logits[others].cpu().float(), [draws[i] for i in others])
    for i, token in zip(others, choice.tokens, strict=True):
        tokens[i] = token
    told = [structs.replace(item, index=others[item.index]) for item in choice.logprobs]
    return Choice(tokens, told)


def _is_greedy(draw: Draw) -> bool:
    """Whether the likeliest token is drawn, with nothing that changes which, and nothing told."""
    sampling = draw.sampling
    if draw.matcher is not None or sampling.logprobs is not None:
        return False
    penalties = (sampling.frequency_penalty, sampling.presence_penalty)
    return sampling.temperature == 0 and sampling.repetition_penalty == 1 and not any(penalties)


@torch.inference_mode()  # as the logits are made; else they could not be changed in place
def choose(logits: torch.Tensor, draws: list[Draw]) -> Choice:
    """`draw_all` of float32 on the CPU. Changes `logits`, and the grammars' states."""
    observed = Observed(logits, [draw.sampling for draw in draws])
    matchers = [draw.matcher for draw in draws]
    restrict(logits, matchers)
    tokens: list[int] = sample(logits, draws).tolist()
    advance(matchers, tokens)
    return Choice(tokens, observed.of(tokens))


def sample(logits: torch.Tensor, draws: list[Draw]) -> torch.Tensor:
    """Token ids (rows,), int64, from `logits` (rows, vocabulary), float32, which it may change.

    In vLLM's order: penalties, temperature, then top-k, top-p and min-p.
    """
    for row, draw in zip(logits, draws, strict=True):
        _penalise(row, draw)
    ids = logits.argmax(dim=-1)
    for i, draw in enumerate(draws):
        if draw.sampling.temperature > 0:
            ids[i] = _race(logits[i] / draw.sampling.temperature, draw)
    return ids


def _race(scaled: torch.Tensor, draw: Draw) -> torch.Tensor:
    """One token id, drawn with the probabilities that `scaled` (vocabulary,) stands for."""
    noise = gumbel(draw.sampling.seed, len(draw.tokens), len(scaled))
    if not _is_narrow(draw.sampling):
        return (scaled + noise).argmax()
    kept, order = candidates(scaled, draw.sampling)
    return order[(kept + noise[order]).argmax()]


def _is_narrow(sampling: Sampling) -> bool:
    return sampling.top_k > 0 or sampling.top_p < 1 or sampling.min_p > 0


def candidates(scaled: torch.Tensor, sampling: Sampling) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits and ids, likeliest first, that top-k, then top-p and min-p leave: never none."""
    size = min(sampling.top_k or len(scaled), len(scaled))
    values, order = scaled.topk(min(size, SHORTLIST))
    # After top-k, probabilities are among the k; without it, among all.
    mass = values.logsumexp(0) if size <= SHORTLIST else scaled.logsumexp(0)
    if size > SHORTLIST and (values - mass).exp().sum() < sampling.top_p:
        values, order = scaled.topk(size)
        mass = values.logsumexp(0)
    p = (values - mass).exp()
    before = p.cumsum(0) - p  # mass of the likelier tokens; 0 for the first, which stays
    keep = (before < sampling.top_p) & (p >= sampling.min_p * p[0])
    keep[0] = True
    return values[keep], order[keep]


def _penalise(row: torch.Tensor, draw: Draw) -> None:
    """Repetition penalty over all known tokens; frequency and presence over the output."""
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


def gumbel(seed: int, position: int, size: int) -> torch.Tensor:
    """Gumbel noise (size,), float32, that (seed, position) determine, for each token id.

    Counter-based: a 64-bit key from SplitMix64, then murmur3's 32-bit finaliser of the token id
    under that key. int32 products wrap, as they should.
    """
    key = _mix(_mix(seed & MASK_64) ^ position)
    x = torch.arange(size, dtype=torch.int32)
    x = x * _int32(0x9E3779B1) + _int32(key)
    x = (x ^ _shift(x, 16)) * _int32(0x85EBCA6B) + _int32(key >> 32)
    x = (x ^ _shift(x, 13)) * _int32(0xC2B2AE35)
    x = x ^ _shift(x, 16)
    # 31 bits; a float32 keeps the precision of the small ones, and those win races.
    uniform = ((x & 0x7FFFFFFF).float() + 0.5) / 2**31
    return -torch.log(-torch.log1p(-uniform))


def _shift(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Logical right shift of int32."""
    return (x >> bits) & ((1 << (32 - bits)) - 1)


def _int32(x: int) -> int:
    """The low 32 bits of x as a signed number."""
    return ((x & 0xFFFFFFFF) ^ 0x80000000) - 0x80000000


def _mix(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) & MASK_64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK_64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK_64
    return x ^ (x >> 31)
