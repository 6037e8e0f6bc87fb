"""A scheduler on a virtual clock, with a model worker that checks every plan it gets."""

import itertools
from pathlib import Path

from hypothesis import strategies as st

from bros.brosd.config import KvMode, PolicyName, load
from bros.brosd.protocol.wire import (
    Admit,
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
from bros.brosd.scheduling.request import Request
from bros.brosd.scheduling.scheduler import Scheduler
from bros.kv import Allocator, BlockTable, Klass, TableGeometry
from bros.kv.invariants import check
from kv_machine import ModelWorker

LIMITS = Limits(max_sequences=4, max_batch_tokens=16, max_waiting=50)
NUM_BLOCKS = 8
MAX_LEN = 28  # of 32 slots: the reserve is never BE's


class Bench:
    """A scheduler, its table, and a worker that knows each row's next token: their number."""

    def __init__(
        self,
        folder: Path,
        policy: PolicyName = "bros",
        limits: Limits = LIMITS,
        mode: KvMode = "bidirectional",
    ) -> None:
        kv = [f"kv.mode={mode}", "kv.host_bytes=24", "kv.copy_bytes_per_step=16"]
        shares = ["kv.rt_reserve=0.125", "kv.rt_cached=0.125", "kv.low_water=0.25"]
        config = load(overrides=[f"scheduler.policy={policy}", *kv, *shares], environ={})
        self.pool = PoolPlan(
            config, Geometry(0, 1, NUM_BLOCKS, 4, MAX_LEN, 99, kv_bytes_per_token=1)
        )
        self.scheduler = Scheduler(POLICIES[policy](), limits, self.pool.rules)
        self.now_s = 0.0
        self.scheduler.clock = lambda: self.now_s
        self.folder = folder
        self.tables = itertools.count()
        self.known: dict[int, list[int]] = {}
        self.output: dict[int, list[int]] = {}
        self.finish: dict[int, FinishReason] = {}
        self.in_flight: StepPlan | None = None
        self.attach()

    def attach(self) -> None:
        geometry = TableGeometry(
            num_blocks=NUM_BLOCKS,
            block_size=4,
            max_rows=8,
            max_len=32,
            host_slots=self.pool.host_slots,
            max_copies=self.pool.max_copies,
        )
        self.table = BlockTable(self.folder / f"table-{next(self.tables)}", geometry)
        self.table.unlink()
        self.worker = ModelWorker(self.table)
        scheduler = self.scheduler
        allocator = Allocator(self.table, self.pool.options, scheduler.costs, scheduler.kv)
        scheduler.attach(allocator, MAX_LEN)
        self.known = {}

    def request(self, rid: int, klass: Klass, prompt: int, max_tokens: int) -> Request:
        """A request that arrives now; the default objectives if it is real-time."""
        admit = Admit(
            rid=rid,
            klass=klass,
            arrived_s=self.now_s + rid * 1e-6,
            prompt=pack_ids([1000 + rid % 3] * prompt),
            max_tokens=max_tokens,
            sampling=Sampling(temperature=0.0),
            slo=Slo(ttft_s=0.5, tpot_s=0.08) if klass is Klass.RT else None,
        )
        self.output[rid] = []
        return Request.of(admit)

    def admit(self, rid: int, klass: Klass, prompt: int, max_tokens: int) -> None:
        request = self.request(rid, klass, prompt, max_tokens)
        assert self.scheduler.enqueue(request) is None

    def send(self) -> bool:
        """Plan an iteration and check it as a worker would."""
        self.in_flight = self.scheduler.plan()
        plan = self.in_flight
        if plan is None:
            return False
        for new_row in plan.new_rows:
            self.known[new_row.row] = unpack_ids(new_row.tokens).tolist()
        counts = unpack_ids(plan.counts)
        assert counts.sum() <= self.scheduler.limits.max_batch_tokens
        assert len(counts) <= self.scheduler.limits.max_sequences
        for row, start, count in self.rows(plan):
            assert count > 0
            assert start + count <= len(self.known[row])
            assert self.table.resident_len[row] == start + count
        self.worker.copy(plan.num_copies)
        for row, start, count in self.rows(plan):
            self.worker.write(row, self.known[row], start, start + count)
        for row, start, count in self.rows(plan):
            self.worker.read(row, self.known[row], start + count)
        return True

    def rows(self, plan: StepPlan) -> list[tuple[int, int, int]]:
        columns = (unpack_ids(c).tolist() for c in (plan.rows, plan.starts, plan.counts))
        return list(zip(*columns, strict=True))

    def finish_step(self) -> None:
        """Sample: the next token of a row is how many it has."""
        plan, self.in_flight = self.in_flight, None
        assert plan is not None
        tokens = []
        for row, start, count in self.rows(plan):
            if start + count == len(self.known[row]):
                tokens.append(len(self.known[row]))
                self.known[row].append(tokens[-1])
        elapsed_s = 0.02 + 0.005 * int(unpack_ids(plan.counts).sum())
        self.now_s += elapsed_s
        self.scheduler.measure(elapsed_s, 0.0, 0)
        emit = self.scheduler.complete(plan.step, tokens)
        self.check()
        if emit is None:
            return
        for rid, token, reason in zip(
            emit.rids, unpack_ids(emit.tokens).tolist(), emit.finish, strict=True
        ):
            self.output[rid].append(token)
            if reason is not FinishReason.NONE:
                self.finish[rid] = reason

    def step(self) -> bool:
        if not self.send():
            return False
        self.finish_step()
        return True

    def check(self) -> None:
        allocator = self.scheduler.allocator
        assert allocator is not None
        check(allocator)


class Story:
    """Random events on a bench; remembers which requests are owed all their tokens."""

    def __init__(self, bench: Bench, requests: list[tuple[Klass, int, int]]) -> None:
        self.bench = bench
        self.todo = dict(enumerate(requests))
        self.owed: dict[int, tuple[int, int]] = {}

    def admit(self) -> None:
        if self.todo:
            rid, (klass, prompt, max_tokens) = self.todo.popitem()
            self.bench.admit(rid, klass, prompt, max_tokens)
            self.owed[rid] = (prompt, max_tokens)

    def abort(self, pick: int) -> None:
        if self.owed:
            rid = sorted(self.owed)[pick % len(self.owed)]
            self.bench.scheduler.abort(rid)
            del self.owed[rid]

    def happen(self, event: str, pick: int) -> None:
        match event:
            case "step":
                self.bench.step()
            case "admit":
                self.admit()
            case "abort":
                self.abort(pick)
            case "abort in flight":
                flying = self.bench.send()
                self.abort(pick)
                if flying:
                    self.bench.finish_step()
            case "lose worker":
                self.bench.send()
                assert self.bench.scheduler.detach() == []
                self.bench.attach()

    def finish(self) -> None:
        while self.todo:
            self.admit()
        for _ in range(2000):
            if not self.bench.step():
                break

    def check(self) -> None:
        """Fail unless nothing is left, and every request got all its tokens."""
        bench = self.bench
        assert bench.scheduler.idle
        assert bench.scheduler.allocator is not None
        assert bench.scheduler.allocator.num_free == NUM_BLOCKS
        for rid, (prompt, max_tokens) in self.owed.items():
            length = min(max_tokens, MAX_LEN - prompt)
            assert bench.output[rid] == list(range(prompt, prompt + length))
            assert bench.finish[rid] is FinishReason.LENGTH


requests = st.lists(
    st.tuples(st.sampled_from(Klass), st.integers(1, 20), st.integers(1, 12)), max_size=12
)
events = st.lists(
    st.tuples(
        st.sampled_from(["step", "step", "admit", "abort", "abort in flight", "lose worker"]),
        st.integers(0, 11),
    ),
    max_size=30,
)
