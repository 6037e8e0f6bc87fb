"""Log probabilities of sampled tokens and of the likeliest, for rows that ask for them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from bros.brosd.protocol.wire import Logprobs, Sampling, pack_floats, pack_ids


class Observed:
    """The model's own log probabilities: before penalties, temperature and grammar."""

    def __init__(self, logits: torch.Tensor, samplings: Sequence[Sampling]) -> None:
        self._rows = [i for i, s in enumerate(samplings) if s.logprobs is not None]
        self._counts = [samplings[i].logprobs or 0 for i in self._rows]
        # A copy: sampling changes the logits.
        self._logprobs = logits[self._rows].log_softmax(-1) if self._rows else logits[:0]

    def of(self, tokens: Sequence[int]) -> list[Logprobs]:
        """Return what rows asked for; `index` is a row's place in the sampled `tokens`."""
        if not self._rows:
            return []
        chosen = torch.tensor([tokens[row] for row in self._rows], device=self._logprobs.device)
        own = self._logprobs.gather(1, chosen[:, None])[:, 0].tolist()
        top, ids = self._logprobs.topk(max(1, *self._counts), dim=-1)
        values, names = top.cpu().numpy(), ids.cpu().numpy()
        return [
            Logprobs(row, own[i], pack_ids(names[i, :count]), pack_floats(values[i, :count]))
            for i, (row, count) in enumerate(zip(self._rows, self._counts, strict=True))
        ]
