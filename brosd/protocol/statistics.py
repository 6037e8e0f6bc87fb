"""What the daemon reports of itself, once a second."""

from __future__ import annotations

import msgspec

from bros.brosd.protocol.base import Message, Part
from bros.brosd.protocol.sampling import Slo


class ClassStats(Part):
    """Requests and tokens of one class since the daemon started.

    `memory_wait_s` is the time that requests were left out of iterations for lack of KV blocks.
    """

    running: int = 0
    waiting: int = 0
    finished: int = 0
    in_time: int = 0  # finished requests that met their objectives
    prompt_tokens: int = 0
    output_tokens: int = 0
    preemptions: int = 0  # times that a request lost KV that it had
    preempted_tokens: int = 0
    prefix_asked_tokens: int = 0
    prefix_hit_tokens: int = 0
    memory_wait_s: float = 0.0


class KvStats(Part):
    """The KV cache since the daemon started, in blocks, tokens, bytes and seconds."""

    blocks_total: int = 0
    blocks_free: int = 0
    host_blocks_total: int = 0
    host_blocks_used: int = 0
    shared_blocks: int = 0
    preempted_blocks: int = 0
    saved_blocks: int = 0
    restored_blocks: int = 0
    moved_blocks: int = 0
    evicted_blocks: int = 0
    dropped_tokens: int = 0
    recomputed_tokens: int = 0
    copy_bytes: int = 0
    copy_s: float = 0.0


class Distribution(Part):
    """How many durations fell into each bucket since the start, and percentiles of recent ones.

    `brosd/scheduling/latency.py` has the bounds of the buckets; the last bucket has no bound.
    """

    counts: list[int] = msgspec.field(default_factory=list)
    sum_s: float = 0.0
    recent: int = 0  # how many in the last minute
    p50_s: float | None = None
    p95_s: float | None = None
    p99_s: float | None = None


class LatencyStats(Part):
    """How long requests of one class waited for their tokens; `itl` is from token to token."""

    ttft: Distribution = msgspec.field(default_factory=Distribution)
    tpot: Distribution = msgspec.field(default_factory=Distribution)
    itl: Distribution = msgspec.field(default_factory=Distribution)
    e2e: Distribution = msgspec.field(default_factory=Distribution)
    recent_finished: int = 0  # in the last minute
    recent_in_time: int = 0


class BlockMap(Part):
    """A block table at a glance: blocks by use, and a letter per cell of equally many blocks.

    The letters: `.` free, `c` cached, `R` RT, `B` BE, `S` BE with a host copy, `X` both classes.
    """

    free: int = 0
    cached: int = 0
    rt: int = 0
    be: int = 0
    saved: int = 0
    shared: int = 0
    cells: str = ""


class WorkerStats(Part):
    """One worker; pairs of numbers are of RT and BE."""

    name: str
    ready: bool
    restarts: int = 0
    running: tuple[int, int] = (0, 0)
    waiting: tuple[int, int] = (0, 0)
    blocks: BlockMap = msgspec.field(default_factory=BlockMap)
    device: str = "cpu"
    lost: bool = False  # it died too often and is not started again
    iterations: int = 0


class Stats(Message, tag="stats"):
    """The daemon's own view, sent once a second and at each change of `state`.

    Counts are sums over the workers, `iteration_s` and `prediction_error` means.
    """

    state: str  # "starting", "ready" or "draining"
    model: str
    policy: str
    uptime_s: float
    slo: Slo  # of real-time requests that name none
    max_len: int = 0
    vocab_size: int = 0  # tokens that the model has, not its tokenizer; 0 until a worker has said
    iterations: int = 0
    iteration_s: float = 0.0  # mean over the last second
    scheduling_s: float = (
        0.0  # the daemon's time from an iteration's tokens to the next plan, summed
    )
    prediction_error: float = 0.0  # mean of |predicted - measured| / measured, recent iterations
    prediction_error_p95: float = 0.0
    worker_restarts: int = 0
    tokenizer_restarts: int = 0
    rt: ClassStats = msgspec.field(default_factory=ClassStats)
    be: ClassStats = msgspec.field(default_factory=ClassStats)
    kv: KvStats = msgspec.field(default_factory=KvStats)
    rt_latency: LatencyStats = msgspec.field(default_factory=LatencyStats)
    be_latency: LatencyStats = msgspec.field(default_factory=LatencyStats)
    workers: list[WorkerStats] = msgspec.field(default_factory=list)
    daemon_restarts: int = 0  # since `brosd start --detach`
    planning_faults: int = 0  # plans that failed because of a bug, and were made more simply
    internal_errors: int = 0  # bugs in the handling of events; the log has a traceback of each
