"""The daemon's own scheduler and allocator on a virtual clock, with a GPU that only takes time.

The scheduler is driven as the daemon drives it: admit, plan, measure, complete. The clock, the
duration of an iteration (`truth`) and the sampled tokens, which nobody reads, are virtual.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.simulate.outcome import Outcome, Streams
from benchmarks.simulate.trace import Trace
from benchmarks.simulate.truth import NOISE, PAIRS, Ints, Pair, Work
from bros.brosd.config import Config, KvConfig, KvMode, PolicyName, SchedulerConfig
from bros.brosd.protocol.wire import (
    Admit,
    Emit,
    FinishReason,
    Geometry,
    Sampling,
    Slo,
    StepPlan,
    pack_ids,
    unpack_ids,
)
from bros.brosd.scheduling.limits import Limits
from bros.brosd.scheduling.pool_plan import PoolPlan
from bros.brosd.scheduling.registry import POLICIES
from bros.brosd.scheduling.scheduler import Scheduler
from bros.kv import Allocator, BlockTable, Klass, TableGeometry

MAX_LEN = 16384  # tokens of prompt and answer
HOST_BYTES = 64 * 2**30
COPY_BYTES_PER_STEP = 256 * 2**20
FIRST_BE = 2**24  # ids of BE requests start here; those of RT start at 0
SAMPLING = Sampling()
PATIENCE = 2.0  # times the duration; answers that are missing then count as never given


@dataclass(frozen=True)
class Setup:
    """One run: a pair, a policy, and their traffic. `rt_rate` is in requests/s."""

    pair: str
    policy: PolicyName
    kv_mode: KvMode = "bidirectional"
    share: bool = True
    rt_rate: float = 0.0
    be_in_flight: int = 256
    slo_scale: float = 1.0  # multiplies the pair's objectives
    duration_s: float = 600.0
    warmup_s: float = 60.0  # not measured: pools fill up, cost models learn
    block_size: int = 16
    seed: int = 1

    @property
    def slo(self) -> Slo:
        """The objectives of RT requests."""
        slo = PAIRS[self.pair].slo
        return Slo(self.slo_scale * slo.ttft_s, self.slo_scale * slo.tpot_s)

    def config(self, pair: Pair) -> Config:
        """Return the configuration that the daemon would have."""
        kv = KvConfig(
            block_size=self.block_size,
            mode=self.kv_mode,
            share=self.share,
            host_bytes=HOST_BYTES,
            copy_bytes_per_step=COPY_BYTES_PER_STEP,
        )
        scheduler = SchedulerConfig(
            policy=self.policy,
            max_sequences=pair.max_sequences,
            max_batch_tokens=pair.max_batch_tokens,
            max_waiting=10**9,  # no request is refused, so that all latencies count
        )
        return Config(kv=kv, scheduler=scheduler)


@dataclass
class Worker:
    """The GPU: knows how long its rows are, and takes as long as `truth` says."""

    pair: Pair
    block_bytes: int
    seed: int
    lengths: Ints = field(init=False)  # known tokens per row

    def __post_init__(self) -> None:
        self.lengths = np.zeros(2 * self.pair.max_sequences, np.int64)
        self._rng = np.random.default_rng(self.seed)

    def run(self, plan: StepPlan) -> tuple[float, float, int]:
        """Return seconds of the iteration, seconds of copies among them, and sampled tokens."""
        for new_row in plan.new_rows:
            self.lengths[new_row.row] = len(new_row.tokens) // 4
        rows, starts, counts = (
            unpack_ids(column).astype(np.int64) for column in (plan.rows, plan.starts, plan.counts)
        )
        sampled = rows[starts + counts == self.lengths[rows]]
        self.lengths[sampled] += 1
        work = Work(starts, counts, len(sampled), plan.num_copies * self.block_bytes)
        compute_s, copy_s = self.pair.iteration_s(work)
        noise = float(np.exp(NOISE * self._rng.standard_normal()))
        return noise * (compute_s + copy_s), noise * copy_s, len(sampled)


class World:
    """One run of `setup`: RT arrives as in `rt`, BE is a closed loop with the lengths in `be`."""

    def __init__(self, setup: Setup, rt: Trace, be: Trace, folder: Path) -> None:
        pair = PAIRS[setup.pair]
        self.setup = setup
        self.now_s = 0.0
        kv_bytes = pair.model.kv_bytes_per_token
        num_blocks = pair.kv_tokens // setup.block_size
        geometry = Geometry(0, 1, num_blocks, setup.block_size, MAX_LEN, pair.model.vocab, kv_bytes)
        pool = PoolPlan(setup.config(pair), geometry)
        self._scheduler = _scheduler(setup, pair, pool, folder)
        self._scheduler.clock = lambda: self.now_s
        self._worker = Worker(pair, setup.block_size * kv_bytes, setup.seed)
        duration_s = setup.duration_s if setup.rt_rate else 0.0
        self._rt = rt.at_rate(setup.rt_rate or 1.0, duration_s).clipped(pool.max_len)
        self._be = be.clipped(pool.max_len)
        self._num_rt = self._num_be = 0
        self._streams = Streams(self._rt)
        self._iterations: list[float] = []  # seconds of each measured iteration

    def run(self) -> Outcome:
        """Serve until every measured RT request has its answer, or patience ends."""
        began_s = time.process_time()
        setup = self.setup
        for _ in range(setup.be_in_flight):
            self._admit_be()
        self._run_until(setup.warmup_s)
        before = self._be_progress()
        self._iterations.clear()
        self._run_until(setup.duration_s)
        after = self._be_progress()
        measured_s = self.now_s - setup.warmup_s
        iterations = np.array(self._iterations)
        while self._streams.num_open and self.now_s < (1 + PATIENCE) * setup.duration_s:
            self._run_until(self.now_s + 1.0)
        return Outcome(
            rt=self._streams.since(setup.warmup_s),
            be_prompt_rate=(after[0] - before[0]) / measured_s,
            be_output_rate=(after[1] - before[1]) / measured_s,
            iterations=len(iterations),
            iteration_s=float(iterations.mean()) if len(iterations) else 0.0,
            cost_error=self._scheduler.cost.relative_errors[0],
            kv=self._scheduler.kv,
            virtual_s=self.now_s,
            cpu_s=time.process_time() - began_s,
        )

    def _run_until(self, end_s: float) -> None:
        while self.now_s < end_s:
            self._admit_rt()
            plan = self._scheduler.plan()
            if plan is None:
                self.now_s = min(end_s, self._next_arrival_s())
            else:
                self._iterate(plan)

    def _iterate(self, plan: StepPlan) -> None:
        elapsed_s, copy_s, num_tokens = self._worker.run(plan)
        self.now_s += elapsed_s
        self._iterations.append(elapsed_s)
        copy_bytes = plan.num_copies * self._worker.block_bytes
        self._scheduler.measure(elapsed_s, copy_s, copy_bytes)
        emit = self._scheduler.complete(plan.step, [0] * num_tokens)
        if emit is not None:
            self._take(emit)

    def _take(self, emit: Emit) -> None:
        for rid, finish in zip(emit.rids, emit.finish, strict=True):
            if rid < FIRST_BE:
                self._streams.token(rid, self.now_s)
            elif finish is not FinishReason.NONE:
                self._admit_be()

    # -- traffic ---------------------------------------------------------------------------------

    def _next_arrival_s(self) -> float:
        left = self._num_rt < len(self._rt)
        return float(self._rt.arrivals_s[self._num_rt]) if left else float("inf")

    def _admit_rt(self) -> None:
        while self._next_arrival_s() <= self.now_s:
            rid = self._num_rt
            self._num_rt += 1
            arrived_s = float(self._rt.arrivals_s[rid])
            self._admit(rid, Klass.RT, arrived_s, self._rt, rid, self.setup.slo)

    def _admit_be(self) -> None:
        index = self._num_be
        self._num_be += 1
        line = index % len(self._be)
        self._admit(FIRST_BE + index, Klass.BE, self.now_s, self._be, line, None)

    def _admit(
        self, rid: int, klass: Klass, arrived_s: float, trace: Trace, line: int, slo: Slo | None
    ) -> None:
        prompt = np.full(trace.prompts[line], rid, np.int32)  # no two requests share a prefix
        max_tokens = int(trace.outputs[line])
        admit = Admit(rid, klass, arrived_s, pack_ids(prompt), max_tokens, SAMPLING, slo=slo)
        if self._scheduler.admit(admit) is not None:
            raise RuntimeError(f"request {rid} was refused")

    def _be_progress(self) -> tuple[int, int]:
        """Return prompt and output tokens of BE so far, unfinished requests included, each once."""
        counters = self._scheduler.counters[Klass.BE]
        queues = (self._scheduler.running, self._scheduler.waiting[Klass.BE])
        prompts = sum(
            min(request.num_computed, request.num_prompt)
            for queue in queues
            for request in queue
            if request.klass is Klass.BE
        )
        return counters.prompt_tokens + prompts, counters.output_tokens


def _scheduler(setup: Setup, pair: Pair, pool: PoolPlan, folder: Path) -> Scheduler:
    """Return the daemon's scheduler, with a block table of this pair's size."""
    sizes = TableGeometry(
        num_blocks=pool.geometry.num_blocks,
        block_size=setup.block_size,
        max_rows=2 * pair.max_sequences,
        max_len=pool.max_len,
        host_slots=pool.host_slots,
        max_copies=pool.max_copies,
    )
    config = pool.config.scheduler
    limits = Limits(
        config.max_sequences, config.max_batch_tokens, config.max_waiting, config.be_floor
    )
    table = BlockTable(folder / "table", sizes)
    table.unlink()
    scheduler = Scheduler(POLICIES[setup.policy](), limits, pool.rules)
    allocator = Allocator(table, pool.options, scheduler.costs, scheduler.kv)
    scheduler.attach(allocator, pool.max_len)
    return scheduler


def simulate(setup: Setup, rt: Trace, be: Trace) -> Outcome:
    """Run `setup` once, from an empty pool."""
    with TemporaryDirectory() as folder:
        return World(setup, rt, be, Path(folder)).run()
