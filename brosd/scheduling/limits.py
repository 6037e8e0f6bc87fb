"""Bounds that the configuration sets for a scheduler, and its rules for preemption."""

from __future__ import annotations

from dataclasses import dataclass

from bros.brosd.config import KvMode


@dataclass(frozen=True)
class Limits:
    """Bounds of one iteration and of the queue."""

    max_sequences: int
    max_batch_tokens: int
    max_waiting: int
    be_floor: float = 0.0  # share of the time that BE gets at least, while RT wants all of it
    max_losses: int = 3  # workers a request may take down before it is the suspect


@dataclass(frozen=True)
class KvRules:
    """What preemption takes from a request, and when its KV is saved before it must be.

    `bidirectional` takes the blocks that are needed; `recompute` all KV and the place; `swap` all
    KV, which is copied to the host.
    """

    mode: KvMode = "bidirectional"
    low_water: int = 0  # free blocks below which tails of BE rows are saved in the background

    @property
    def takes_all(self) -> bool:
        """Whether a victim loses all its KV, not only what is needed."""
        return self.mode != "bidirectional"
