"""What a scheduler reports of its requests and of its KV cache."""

from __future__ import annotations

from dataclasses import dataclass

from bros.brosd.protocol.wire import ClassStats, KvStats
from bros.brosd.scheduling.queues import Queues
from bros.kv import Allocator, Klass, KvCounters


@dataclass
class ClassCounters:
    """What happened to one class since the start, in requests and tokens."""

    finished: int = 0
    in_time: int = 0  # of those finished, with their objectives met
    prompt_tokens: int = 0
    output_tokens: int = 0


def class_stats(
    klass: Klass, queues: Queues, counters: ClassCounters, kv: KvCounters
) -> ClassStats:
    """Requests and tokens of one class."""
    return ClassStats(
        running=sum(request.klass is klass for request in queues.running),
        waiting=len(queues.waiting[klass]),
        preemptions=kv.preemptions[klass],
        preempted_tokens=kv.preempted_tokens[klass],
        prefix_asked_tokens=kv.prefix_asked_tokens[klass],
        prefix_hit_tokens=kv.prefix_hit_tokens[klass],
        memory_wait_s=kv.memory_wait_s[klass],
        **vars(counters),
    )


def kv_stats(allocator: Allocator | None, kv: KvCounters) -> KvStats:
    """The KV cache's state, empty while no worker serves, and its counters."""
    return KvStats(
        blocks_total=allocator.num_blocks if allocator else 0,
        blocks_free=allocator.num_free if allocator else 0,
        host_blocks_total=allocator.table.geometry.host_slots if allocator else 0,
        host_blocks_used=allocator.num_host_used if allocator else 0,
        shared_blocks=kv.shared_blocks,
        preempted_blocks=kv.preempted_blocks,
        saved_blocks=kv.saved_blocks,
        restored_blocks=kv.restored_blocks,
        moved_blocks=kv.moved_blocks,
        evicted_blocks=kv.evicted_blocks,
        dropped_tokens=kv.dropped_tokens,
        recomputed_tokens=kv.recomputed_tokens,
        copy_bytes=kv.copy_bytes,
        copy_s=kv.copy_s,
    )
