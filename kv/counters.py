"""What happened to KV since the daemon started, and what moving and computing it costs."""

from __future__ import annotations

from dataclasses import dataclass, field

from bros.kv.layout import Klass

SMOOTHING = 0.1  # weight of a new measurement


def _per_class() -> dict[Klass, int]:
    return dict.fromkeys(Klass, 0)


@dataclass
class KvCounters:
    """Blocks, tokens, bytes and seconds; they outlive the tables of lost workers.

    Each counter has one writer, named above it.
    """

    # Blocks
    shared_blocks: int = 0  # times that the second class moved into a block
    evicted_blocks: int = 0  # cached prefixes whose blocks were taken
    # BlockReclaimer
    preemptions: dict[Klass, int] = field(default_factory=_per_class)  # times a row lost KV
    preempted_blocks: int = 0  # taken whole from a row that still needed them
    preempted_tokens: dict[Klass, int] = field(default_factory=_per_class)
    # CheckpointPlanner
    saved_blocks: int = 0  # copied to the host
    restored_blocks: int = 0  # copied back
    moved_blocks: int = 0  # copied within the pool, out of a block that RT filled up
    dropped_tokens: int = 0  # lost without a copy
    # Allocator
    prefix_asked_tokens: dict[Klass, int] = field(default_factory=_per_class)
    # KvReuse
    prefix_hit_tokens: dict[Klass, int] = field(default_factory=_per_class)
    # the scheduler's packer
    recomputed_tokens: int = 0  # computed more than once
    # the scheduler, from what a worker reports
    memory_wait_s: dict[Klass, float] = field(default_factory=lambda: dict.fromkeys(Klass, 0.0))
    copy_bytes: int = 0
    copy_s: float = 0.0


@dataclass
class KvCosts:
    """Measured times that decide between copying KV to the host and computing it again."""

    copy_s_per_block: float = 0.0
    compute_s_per_token: float = 0.0  # 0: not known yet

    def note_copies(self, seconds: float) -> None:
        """Learn how long the copy of one block took."""
        self.copy_s_per_block = _smooth(self.copy_s_per_block, seconds)

    def note_compute(self, seconds: float) -> None:
        """Learn how long one token of a prompt took."""
        self.compute_s_per_token = _smooth(self.compute_s_per_token, seconds)

    def worth_saving(self, num_tokens: int) -> bool:
        """Whether copying a block with so many tokens out and back is faster than computing it."""
        if self.compute_s_per_token == 0:
            return True
        return 2 * self.copy_s_per_block < num_tokens * self.compute_s_per_token


def _smooth(mean: float, value: float) -> float:
    """Return the next exponential moving average; the first value starts it."""
    return value if mean == 0 else mean + SMOOTHING * (value - mean)
