"""What happened to KV since the daemon started: plain numbers, added up by whoever acts."""

from __future__ import annotations

from dataclasses import dataclass, field

from bros.kv.layout import Klass

SMOOTHING = 0.1  # weight of a new measurement


def _per_class() -> dict[Klass, int]:
    return dict.fromkeys(Klass, 0)


@dataclass
class KvCounters:
    """Blocks, tokens, bytes and seconds; outlives the tables of lost workers."""

    shared_blocks: int = 0  # times that the second class moved into a block
    preemptions: dict[Klass, int] = field(default_factory=_per_class)  # rows that lost KV, times
    preempted_blocks: int = 0  # taken whole from a row that wanted to keep them
    preempted_tokens: dict[Klass, int] = field(default_factory=_per_class)
    saved_blocks: int = 0  # copied to the host
    restored_blocks: int = 0  # copied back
    moved_blocks: int = 0  # copied within the pool, out of a block that RT filled up
    dropped_tokens: int = 0  # lost without a copy
    recomputed_tokens: int = 0  # computed more than once
    evicted_blocks: int = 0  # cached prefixes that made place
    prefix_hit_tokens: dict[Klass, int] = field(default_factory=_per_class)
    prefix_asked_tokens: dict[Klass, int] = field(default_factory=_per_class)
    memory_wait_s: dict[Klass, float] = field(default_factory=lambda: dict.fromkeys(Klass, 0.0))
    copy_bytes: int = 0
    copy_s: float = 0.0


@dataclass
class KvCosts:
    """What decides between a checkpoint and computing again; measured by whoever runs plans."""

    copy_s_per_block: float = 0.0
    compute_s_per_token: float = 0.0  # 0: not known yet

    def note_copies(self, seconds: float) -> None:
        """A copy of a block took this long."""
        self.copy_s_per_block = _smooth(self.copy_s_per_block, seconds)

    def note_compute(self, seconds: float) -> None:
        """A token of a prompt took this long."""
        self.compute_s_per_token = _smooth(self.compute_s_per_token, seconds)

    def worth_saving(self, num_tokens: int) -> bool:
        """Whether a block with this many tokens is copied out and back sooner than computed."""
        if self.compute_s_per_token == 0:
            return True
        return 2 * self.copy_s_per_block < num_tokens * self.compute_s_per_token


def _smooth(mean: float, value: float) -> float:
    """An exponential moving average that starts with its first value."""
    return value if mean == 0 else mean + SMOOTHING * (value - mean)
