"""What decides a draw besides the logits: a row's parameters and its noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from bros.brosd.protocol.wire import Sampling
from bros.workers.sampling.noise import key_of


@dataclass(frozen=True)
class Odds:
    """Parameters of the rows that draw, each a column (rows, 1); `keys` is (rows, 2).

    `is_narrow`, on the host, says whether only some of a row's tokens may be drawn.
    """

    temperatures: torch.Tensor  # float32, above 0
    top_k: torch.Tensor  # int32, 0: no limit
    top_p: torch.Tensor  # float32, 1: no limit
    min_p: torch.Tensor  # float32
    keys: torch.Tensor  # int32, of the noise
    is_narrow: list[bool]

    @classmethod
    def of(
        cls, samplings: Sequence[Sampling], positions: Sequence[int], device: torch.device
    ) -> Odds:
        """Make those of rows whose next tokens are at `positions`."""
        keys = [key_of(s.seed, at) for s, at in zip(samplings, positions, strict=True)]

        def column(values: list[float]) -> torch.Tensor:
            return torch.tensor(values, dtype=torch.float32, device=device)[:, None]

        return cls(
            temperatures=column([s.temperature for s in samplings]),
            top_k=torch.tensor([[s.top_k] for s in samplings], dtype=torch.int32, device=device),
            top_p=column([s.top_p for s in samplings]),
            min_p=column([s.min_p for s in samplings]),
            keys=torch.tensor(keys, dtype=torch.int32, device=device),
            is_narrow=[s.top_k > 0 or s.top_p < 1 or s.min_p > 0 for s in samplings],
        )

    def __getitem__(self, rows: Sequence[int]) -> Odds:
        index = list(rows)
        return Odds(
            self.temperatures[index],
            self.top_k[index],
            self.top_p[index],
            self.min_p[index],
            self.keys[index],
            [self.is_narrow[row] for row in index],
        )
