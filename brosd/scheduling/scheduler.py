"""Decides, before every iteration of one worker, which rows compute which tokens.

Pure: state and a clock in, a plan out; no I/O, no torch, no sleeping. The live daemon and a
simulator can run the same class. One plan is in flight at a time: blocks and rows that it names
change only after `complete` or `detach`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from msgspec import structs

from bros.brosd.protocol.wire import (
    Admit,
    ClassStats,
    Emit,
    Fail,
    FinishReason,
    KvStats,
    Logprobs,
    NewRow,
    Sample,
    StepPlan,
    pack_ids,
)
from bros.brosd.scheduling.cost_model import CostModel, IterationLoad
from bros.brosd.scheduling.latency import Latencies
from bros.brosd.scheduling.packing import Chunk, Counters, KvRules, Limits, Packer
from bros.brosd.scheduling.policies import Policy
from bros.brosd.scheduling.request import Request
from bros.kv import Allocator, Klass, KvCosts, KvCounters


@dataclass
class InFlightPlan:
    """The plan that the worker has."""

    step: int
    chunks: list[Chunk]
    num_copies: int
    load: IterationLoad

    @property
    def num_tokens(self) -> int:
        return sum(chunk.count for chunk in self.chunks)


def _queues() -> dict[Klass, deque[Request]]:
    return {klass: deque() for klass in Klass}


@dataclass
class Scheduler:
    """Requests of one worker. Call `plan` when the worker is idle, `complete` when it is done."""

    policy: Policy
    limits: Limits
    rules: KvRules = field(default_factory=KvRules)
    kv: KvCounters = field(default_factory=KvCounters)
    costs: KvCosts = field(default_factory=KvCosts)
    cost: CostModel = field(default_factory=CostModel)
    latencies: Latencies = field(default_factory=Latencies)
    clock: Callable[[], float] = time.monotonic
    running: list[Request] = field(default_factory=list)  # in order of admission
    waiting: dict[Klass, deque[Request]] = field(default_factory=_queues)
    counters: dict[Klass, Counters] = field(
        default_factory=lambda: {klass: Counters() for klass in Klass}
    )
    _by_rid: dict[int, Request] = field(default_factory=dict)
    _packer: Packer | None = None  # while a worker serves
    _max_len: int = 0
    _flight: InFlightPlan | None = None
    _step: int = 0

    # -- the worker comes and goes ---------------------------------------------------------------

    def attach(self, allocator: Allocator, max_len: int) -> None:
        """A worker with an empty pool serves these requests from now on.

        The allocator counts in `kv` and decides by `costs`.
        """
        self._packer = Packer(
            self.policy,
            self.limits,
            self.rules,
            self.cost,
            allocator,
            self.running,
            self.waiting,
        )
        self._max_len = max_len

    def learn(self, profile: Iterable[Sample]) -> None:
        """What iterations of the worker take, before the first one has run."""
        for sample in profile:
            load = IterationLoad()
            for start, count in zip(sample.starts, sample.counts, strict=True):
                load.add(start, count)
            self.cost.learn(load, sample.seconds)
        self.cost.fit()

    def detach(self) -> list[Fail]:
        """The worker is lost, and all KV with it: its requests wait again, with their tokens.

        Returns the requests that ran in too many lost iterations to be tried once more.
        """
        suspects = [chunk.request for chunk in self._flight.chunks] if self._flight else []
        self._flight = self._packer = None
        for request in reversed(self.running):
            request.row = None
            if not request.aborted:
                self.waiting[request.klass].appendleft(request)
            else:
                del self._by_rid[request.rid]
        self.running.clear()
        return [fail for request in suspects if (fail := self._fail_if_suspect(request))]

    def _fail_if_suspect(self, request: Request) -> Fail | None:
        request.losses += 1
        if request.losses < self.limits.max_losses or request.aborted:
            return None
        self.waiting[request.klass].remove(request)
        del self._by_rid[request.rid]
        message = f"{request.losses} workers died while they ran this request"
        return Fail(rid=request.rid, status=500, code="worker_lost", message=message)

    # -- requests come and go --------------------------------------------------------------------

    def admit(self, admit: Admit) -> Fail | None:
        """Queue a request, or say why not."""
        return self.take(Request.of(admit))

    def take(self, request: Request) -> Fail | None:
        """Queue a new request, or say why not."""
        queue = self.waiting[request.klass]
        if request.klass is Klass.RT and len(queue) >= self.limits.max_waiting:
            return Fail(
                rid=request.rid,
                status=429,
                code="queue_full",
                message=f"{len(queue)} real-time requests are waiting already; try again later",
            )
        self._by_rid[request.rid] = request
        queue.append(request)
        return None

    def hand_over(self) -> list[Request]:
        """Give up the requests that wait: another worker's scheduler will `adopt` them."""
        requests = [request for queue in self.waiting.values() for request in queue]
        for queue in self.waiting.values():
            queue.clear()
        for request in requests:
            del self._by_rid[request.rid]
        return requests

    def adopt(self, requests: Iterable[Request]) -> None:
        """Queue requests that were accepted elsewhere, in order of arrival with those here."""
        for request in requests:
            self._by_rid[request.rid] = request
            self.waiting[request.klass].append(request)
        for klass, queue in self.waiting.items():
            self.waiting[klass] = deque(sorted(queue, key=lambda request: request.arrived_s))

    def abort(self, rid: int) -> None:
        """Forget a request; one that is in flight goes when its iteration is over."""
        request = self._by_rid.get(rid)
        if request is None:
            return
        request.aborted = True
        if request.row is None:
            self.waiting[request.klass].remove(request)
            del self._by_rid[rid]
        elif not self._in_flight(request):
            self._leave(request)

    def abort_all(self) -> None:
        """Forget every request: their front door is gone."""
        for rid in list(self._by_rid):
            self.abort(rid)

    @property
    def idle(self) -> bool:
        """Whether no request is left."""
        return not self._by_rid

    @property
    def num_requests(self) -> int:
        """Requests that run or wait."""
        return len(self._by_rid)

    @property
    def in_flight(self) -> bool:
        """Whether the worker has a plan."""
        return self._flight is not None

    @property
    def allocator(self) -> Allocator | None:
        """The block table's writer while a worker serves."""
        return self._packer.allocator if self._packer else None

    def stats(self, klass: Klass) -> ClassStats:
        """Requests and tokens of one class."""
        return ClassStats(
            running=sum(request.klass is klass for request in self.running),
            waiting=len(self.waiting[klass]),
            preemptions=self.kv.preemptions[klass],
            preempted_tokens=self.kv.preempted_tokens[klass],
            prefix_asked_tokens=self.kv.prefix_asked_tokens[klass],
            prefix_hit_tokens=self.kv.prefix_hit_tokens[klass],
            memory_wait_s=self.kv.memory_wait_s[klass],
            **vars(self.counters[klass]),
        )

    def kv_stats(self) -> KvStats:
        """The KV cache's state and counters."""
        allocator, kv = self.allocator, self.kv
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

    # -- iterations ------------------------------------------------------------------------------

    def plan(self) -> StepPlan | None:
        """The next iteration; None if there is nothing to do or one is in flight."""
        if self._packer is None or self._flight is not None:
            return None
        chunks = self._packer.pack(self.clock())
        num_copies = self._packer.allocator.num_copies
        if not chunks and not num_copies:
            return None
        self._step += 1
        self._flight = InFlightPlan(self._step, chunks, num_copies, self._packer.load)
        return StepPlan(
            step=self._step,
            rows=pack_ids([chunk.row for chunk in chunks]),
            starts=pack_ids([chunk.start for chunk in chunks]),
            counts=pack_ids([chunk.count for chunk in chunks]),
            num_copies=num_copies,
            new_rows=self._new_rows(chunks),
        )

    def measure(self, elapsed_s: float, copy_s: float, copy_bytes: int) -> None:
        """Take what the iteration in flight took: its copies, and all of it."""
        self.kv.copy_s += copy_s
        self.kv.copy_bytes += copy_bytes
        flight = self._flight
        if flight is None or self._packer is None:
            return
        for klass, num_requests in self._packer.short_of_memory.items():
            self.kv.memory_wait_s[klass] += num_requests * elapsed_s
        self.cost.observe(flight.load, elapsed_s)
        if flight.num_copies:
            self.costs.note_copies(copy_s / flight.num_copies)
        if flight.num_tokens * 2 > self.limits.max_batch_tokens:  # prefill, not a few decodes
            self.costs.note_compute((elapsed_s - copy_s) / flight.num_tokens)

    def complete(
        self, step: int, tokens: Iterable[int], logprobs: Sequence[Logprobs] = ()
    ) -> Emit | None:
        """Take the sampled tokens of iteration `step`; ValueError if that is not in flight."""
        if self._flight is None or self._flight.step != step:
            raise ValueError(f"iteration {step} is not in flight")
        chunks, self._flight = self._flight.chunks, None
        sampled = [chunk.request for chunk in chunks if chunk.samples]
        rids: list[int] = []
        emitted: list[int] = []
        reasons: list[FinishReason] = []
        told: list[Logprobs] = []
        by_index = {item.index: item for item in logprobs}
        now_s = self.clock()
        for index, (request, token) in enumerate(zip(sampled, tokens, strict=True)):
            if request.aborted:
                continue
            self.latencies.token(request, now_s)
            if item := by_index.get(index):
                told.append(structs.replace(item, index=len(rids)))
            if request.first_s is None:
                request.first_s = now_s
            request.last_s = now_s
            finish = request.append(token, self._max_len)
            rids.append(request.rid)
            emitted.append(token)
            reasons.append(finish)
            self.counters[request.klass].output_tokens += 1
            if finish is not FinishReason.NONE:
                self._finish(request)
        for chunk in chunks:
            if chunk.request.aborted and chunk.request.row is not None:
                self._leave(chunk.request)
        return Emit(rids, pack_ids(emitted), reasons, told) if rids else None

    def _finish(self, request: Request) -> None:
        counters = self.counters[request.klass]
        counters.finished += 1
        counters.in_time += request.in_time
        counters.prompt_tokens += request.num_prompt
        self.latencies.finished(request)
        self._leave(request)

    def _leave(self, request: Request) -> None:
        if self._packer is not None and request.row is not None:
            self._packer.allocator.close_row(request.row)
        request.row = None
        self.running.remove(request)
        del self._by_rid[request.rid]

    def _in_flight(self, request: Request) -> bool:
        flight = self._flight
        return flight is not None and any(chunk.request is request for chunk in flight.chunks)

    def _new_rows(self, chunks: list[Chunk]) -> list[NewRow]:
        new_rows = []
        for chunk in chunks:
            if not chunk.request.known_to_worker:
                chunk.request.known_to_worker = True
                new_rows.append(chunk.request.new_row(chunk.row))
        return new_rows
