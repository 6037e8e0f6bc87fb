"""Draws the next token of each row from its logits.

A draw depends on the logits, the row's seed, and the position and id of each candidate. So a seed
gives the same text whatever else is in the batch, after a recompute, and in another worker.
Rounding may still differ between batches. Draws are therefore races between tokens (the Gumbel-max
trick): in a running sum of probabilities, a rounding error would move all later tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from msgspec import structs

from bros.brosd.protocol.wire import Failed, Logprobs, Sampling
from bros.workers.sampling import cpu, device
from bros.workers.sampling.grammar import RowGrammar, advance, restrict
from bros.workers.sampling.likeliest import likeliest
from bros.workers.sampling.logprobs import Observed
from bros.workers.sampling.odds import Odds


@dataclass(frozen=True)
class Draw:
    """One row that samples: its parameters and its known tokens, the prompt's first."""

    sampling: Sampling
    tokens: np.ndarray  # (known,), int32
    num_prompt: int
    grammar: RowGrammar | None = None


@dataclass(frozen=True)
class Choice:
    """The tokens that rows sampled in an iteration, and log probabilities that were asked for.

    The token of a row that has failed means nothing.
    """

    tokens: list[int] = field(default_factory=list)
    logprobs: list[Logprobs] = field(default_factory=list)
    failed: list[Failed] = field(default_factory=list)


@torch.inference_mode()  # as the logits are made; else they could not be changed in place
def draw_all(logits: torch.Tensor, draws: list[Draw]) -> Choice:
    """Draw the next token of each row of `logits` (rows, vocabulary), on any device, of any type.

    Work is done where the logits are, and may change them. The grammars' states move on.
    """
    others = [i for i, draw in enumerate(draws) if not _is_greedy(draw)]
    if not others:
        return Choice(likeliest(logits))
    if len(others) == len(draws):
        return choose(logits.float(), draws)
    choice = choose(logits[others].float(), [draws[i] for i in others])
    tokens = likeliest(logits)
    for i, token in zip(others, choice.tokens, strict=True):
        tokens[i] = token
    told = [structs.replace(item, index=others[item.index]) for item in choice.logprobs]
    failed = [structs.replace(item, index=others[item.index]) for item in choice.failed]
    return Choice(tokens, told, failed)


def _is_greedy(draw: Draw) -> bool:
    """Return whether the row takes the likeliest token of its unchanged logits, and no more."""
    sampling = draw.sampling
    if draw.grammar is not None or sampling.logprobs is not None:
        return False
    return sampling.temperature == 0 and not _is_penalised(sampling)


def choose(logits: torch.Tensor, draws: list[Draw]) -> Choice:
    """Do `draw_all` on float32 logits, which it changes."""
    observed = Observed(logits, [draw.sampling for draw in draws])
    grammars = [draw.grammar for draw in draws]
    restrict(logits, grammars)
    tokens: list[int] = sample(logits, draws).tolist()
    failed = advance(grammars, tokens)
    return Choice(tokens, observed.of(tokens), failed)


def sample(logits: torch.Tensor, draws: list[Draw]) -> torch.Tensor:
    """Return token ids (rows,), int64, from `logits` (rows, vocabulary), float32, which may change.

    The order is vLLM's: penalties, temperature, then top-k, top-p and min-p.
    """
    for row, draw in zip(logits, draws, strict=True):
        if _is_penalised(draw.sampling):
            _penalise(row, draw)
    drawn = [i for i, draw in enumerate(draws) if draw.sampling.temperature > 0]
    if len(drawn) == len(draws):
        return _race(logits, draws)
    ids = logits.argmax(dim=-1)
    if drawn:
        ids[drawn] = _race(logits[drawn], [draws[i] for i in drawn])
    return ids


def _race(logits: torch.Tensor, draws: list[Draw]) -> torch.Tensor:
    race = cpu.race if logits.device.type == "cpu" else device.race
    positions = [len(draw.tokens) for draw in draws]
    return race(logits, Odds.of([draw.sampling for draw in draws], positions, logits.device))


def _is_penalised(sampling: Sampling) -> bool:
    added = sampling.frequency_penalty or sampling.presence_penalty
    return sampling.repetition_penalty != 1 or bool(added)


def _penalise(row: torch.Tensor, draw: Draw) -> None:
    """Apply the repetition penalty to all known tokens, the other two to those of the output."""
    sampling = draw.sampling
    if sampling.repetition_penalty != 1:
        seen = torch.from_numpy(np.unique(draw.tokens)).long().to(row.device)
        values = row[seen]
        factor = sampling.repetition_penalty
        row[seen] = torch.where(values > 0, values / factor, values * factor)
    if sampling.frequency_penalty or sampling.presence_penalty:
        ids, counts = np.unique(draw.tokens[draw.num_prompt :], return_counts=True)
        penalty = sampling.frequency_penalty * counts + sampling.presence_penalty
        seen = torch.from_numpy(ids).long().to(row.device)
        row[seen] -= torch.from_numpy(penalty.astype(np.float32)).to(row.device)
