"""Iterations of rows that are made up: for the warm-up, the profile and the memory measurement."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from bros.brosd.protocol.wire import Sampling
from bros.workers.attention.interface import AttentionBatch
from bros.workers.sampling.sampler import Draw, draw_all

LONG = 1000  # tokens of a row that threads share
GREEDY = Sampling(temperature=0.0)
WAYS_TO_DRAW = (GREEDY, Sampling(), Sampling(top_p=0.5))


@dataclass(frozen=True)
class Rehearsal:
    """Chunks of `counts` tokens after `starts`, in blocks from the pool's first on."""

    ids: np.ndarray
    batch: AttentionBatch
    last: np.ndarray  # each row's last query

    @classmethod
    def of(
        cls, starts: list[int], counts: list[int], num_blocks: int, block_size: int
    ) -> Rehearsal:
        """Rows share blocks if the pool has too few: what is computed does not matter."""
        begin, count = np.array(starts, np.int32), np.array(counts, np.int32)
        width = -(-int((begin + count).max()) // block_size)
        tables = np.arange(len(starts) * width, dtype=np.int32).reshape(len(starts), width)
        batch = AttentionBatch(
            starts=begin,
            counts=count,
            tables=tables % num_blocks,
            reverse=np.zeros(len(starts), np.bool_),
            block_size=block_size,
        )
        return cls(np.zeros(int(count.sum()), np.int32), batch, batch.offsets[1:] - 1)


def warm_up_shapes(max_len: int) -> list[tuple[list[int], list[int]]]:
    """Starts and counts that need all kernels: of many tokens, of few, of one, of a long row."""
    first = [([0], [min(count, max_len)]) for count in (32, 2, 1)]
    return [*first, ([min(LONG, max_len - 1)], [1])]


def draw_like(logits: torch.Tensor, sampling: Sampling) -> None:
    """Draw a token for each row, as real rows with this sampling would."""
    draw_all(logits, [Draw(sampling, np.zeros(1, np.int32), 1)] * len(logits))
