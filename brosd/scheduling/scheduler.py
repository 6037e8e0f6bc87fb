"""Decides, before every iteration of one worker, which rows compute which tokens.

Pure: state and a clock in, a plan out; no I/O, no torch, no sleeping. The live daemon and a
simulator can run the same class. One plan is in flight at a time: blocks and rows that it names
change only after `complete` or `detach`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from msgspec import structs

from bros.brosd.protocol.wire import (
    Admit,
    ClassStats,
    Emit,
    Fail,
    Failed,
    FinishReason,
    KvStats,
    Logprobs,
    Sample,
    StepPlan,
    pack_ids,
)
from bros.brosd.scheduling.cost_model import CostModel, IterationLoad, is_duration
from bros.brosd.scheduling.faults import Faults
from bros.brosd.scheduling.in_flight import InFlightPlan
from bros.brosd.scheduling.latency import Latencies
from bros.brosd.scheduling.limits import KvRules, Limits
from bros.brosd.scheduling.packing import Packer
from bros.brosd.scheduling.policies import Fallback, Policy
from bros.brosd.scheduling.queues import Queues, Waiting
from bros.brosd.scheduling.request import Request
from bros.brosd.scheduling.stats import ClassCounters, class_stats, kv_stats
from bros.kv import Allocator, Klass, KvCosts, KvCounters


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
    counters: dict[Klass, ClassCounters] = field(
        default_factory=lambda: {klass: ClassCounters() for klass in Klass}
    )
    _faults: Faults = field(default_factory=Faults)
    _queues: Queues = field(default_factory=Queues)
    _packer: Packer | None = None  # while a worker serves
    _max_len: int = 0
    _flight: InFlightPlan | None = None
    _step: int = 0

    # -- the worker comes and goes ---------------------------------------------------------------

    def attach(self, allocator: Allocator, max_len: int) -> None:
        """A worker with an empty pool serves these requests from now on.

        The allocator counts in `kv` and decides by `costs`.
        """
        self._packer = Packer(self.limits, self.rules, allocator, self._queues)
        self._max_len = max_len

    def learn(self, profile: Iterable[Sample]) -> None:
        """What iterations of the worker take, before the first one has run."""
        for sample in profile:
            load = IterationLoad()
            for start, count in zip(sample.starts, sample.counts, strict=True):
                load.add(start, count)
            self.cost.learn(load, sample.seconds)
        self.cost.keep()

    def detach(self) -> list[Fail]:
        """The worker is lost, and all KV with it: its requests wait again, with their tokens.

        Returns the requests that ran in too many lost iterations to be tried once more.
        """
        suspects = self._flight.requests if self._flight else []
        self._flight = self._packer = None
        self._queues.requeue_all()
        return [fail for request in suspects if (fail := self._fail_if_suspect(request))]

    def _fail_if_suspect(self, request: Request) -> Fail | None:
        request.losses += 1
        if request.losses < self.limits.max_losses or request.aborted:
            return None
        self._queues.remove(request)
        message = f"{request.losses} workers died while they ran this request"
        return Fail(rid=request.rid, status=500, code="worker_lost", message=message)

    # -- requests come and go --------------------------------------------------------------------

    def admit(self, admit: Admit) -> Fail | None:
        """Queue a request, or say why not."""
        return self.enqueue(Request.of(admit))

    def enqueue(self, request: Request) -> Fail | None:
        """Queue a new request, or say why not."""
        num_waiting = len(self.waiting[request.klass])
        if request.klass is Klass.RT and num_waiting >= self.limits.max_waiting:
            return Fail(
                rid=request.rid,
                status=429,
                code="queue_full",
                message=f"{num_waiting} real-time requests are waiting already; try again later",
            )
        self._queues.enqueue(request)
        return None

    def hand_over(self) -> list[Request]:
        """Give up the requests that wait: another worker's scheduler will `adopt` them."""
        return self._queues.hand_over()

    def adopt(self, requests: Iterable[Request]) -> None:
        """Queue requests that were accepted elsewhere, in order of arrival with those here."""
        self._queues.adopt(requests)

    def abort(self, rid: int) -> None:
        """Forget a request; one that is in flight goes when its iteration is over."""
        request = self._queues.get(rid)
        if request is None:
            return
        request.aborted = True
        if request.row is None:
            self._queues.remove(request)
        elif self._flight is None or request not in self._flight.requests:
            self._leave(request)

    def abort_all(self) -> None:
        """Forget every request: their front door is gone."""
        for rid in self._queues.rids:
            self.abort(rid)

    @property
    def running(self) -> Sequence[Request]:
        """Requests that have a row, in order of admission."""
        return self._queues.running

    @property
    def waiting(self) -> Waiting:
        """Requests without a row, in order of arrival."""
        return self._queues.waiting

    @property
    def idle(self) -> bool:
        """Whether no request is left."""
        return not len(self._queues)

    @property
    def num_requests(self) -> int:
        """Requests that run or wait."""
        return len(self._queues)

    @property
    def planning_faults(self) -> int:
        """Times that the policy or the cost model failed, and planning went on without it."""
        return self._faults.count

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
        return class_stats(klass, self._queues, self.counters[klass], self.kv)

    def kv_stats(self) -> KvStats:
        """The KV cache's state and counters."""
        return kv_stats(self.allocator, self.kv)

    # -- iterations ------------------------------------------------------------------------------

    def plan(self) -> StepPlan | None:
        """The next iteration; None if there is nothing to do or one is in flight."""
        packer = self._packer
        if packer is None or self._flight is not None:
            return None
        self._pack(packer)
        num_copies = packer.allocator.num_copies
        if not packer.chunks and not num_copies:
            return None
        self._step += 1
        self._flight = InFlightPlan(self._step, packer.chunks, num_copies, packer.load)
        return self._flight.message()

    def _pack(self, packer: Packer) -> None:
        """Fill an iteration; if the policy fails, by a plain one that looks at no time.

        An exception that this raises is a fault of the block table, which `detach` gives up.
        """
        now_s = self.clock()
        packer.begin()
        try:
            packer.fill(self.policy, self.cost, now_s)
        except Exception:
            self._faults.note("planning an iteration")
            packer.fill(Fallback(self.policy.class_blind), CostModel(), now_s)
        packer.finish()

    def measure(self, elapsed_s: float, copy_s: float, copy_bytes: int) -> None:
        """Take what the iteration in flight took: its copies, and all of it.

        Nothing is learnt if `elapsed_s` is no duration: somebody has set a clock.
        """
        self.kv.copy_bytes += copy_bytes
        flight = self._flight
        if flight is None or self._packer is None or not is_duration(elapsed_s):
            return
        copy_s = min(max(0.0, copy_s), elapsed_s)
        self.kv.copy_s += copy_s
        for klass, num_requests in self._packer.short_of_memory.items():
            self.kv.memory_wait_s[klass] += num_requests * elapsed_s
        try:
            self.cost.observe(flight.load, elapsed_s)
        except Exception:
            self._faults.note("learning from an iteration")
        if flight.num_copies:
            self.costs.note_copies(copy_s / flight.num_copies)
        if flight.num_tokens * 2 > self.limits.max_batch_tokens:  # prefill, not a few decodes
            self.costs.note_compute((elapsed_s - copy_s) / flight.num_tokens)

    def give_up(self, step: int, failed: Sequence[Failed]) -> list[Fail]:
        """End the requests whose rows have failed in iteration `step`, before its `complete`."""
        if self._flight is None or self._flight.step != step:
            return []
        fails = []
        for item in failed:
            request = self._flight.sampling[item.index]
            if not request.aborted:
                request.aborted = True
                fails.append(Fail(request.rid, 400, "grammar_failed", item.reason))
        return fails

    def complete(
        self, step: int, tokens: Iterable[int], logprobs: Sequence[Logprobs] = ()
    ) -> Emit | None:
        """Take the sampled tokens of iteration `step`; ValueError if that is not in flight."""
        if self._flight is None or self._flight.step != step:
            raise ValueError(f"iteration {step} is not in flight")
        flight, self._flight = self._flight, None
        rids: list[int] = []
        emitted: list[int] = []
        reasons: list[FinishReason] = []
        told: list[Logprobs] = []
        by_index = {item.index: item for item in logprobs}
        now_s = self.clock()
        for index, (request, token) in enumerate(zip(flight.sampling, tokens, strict=True)):
            if request.aborted:
                continue
            if item := by_index.get(index):
                told.append(structs.replace(item, index=len(rids)))
            rids.append(request.rid)
            emitted.append(token)
            reasons.append(self._append(request, token, now_s))
        for request in flight.requests:
            if request.aborted and request.row is not None:
                self._leave(request)
        return Emit(rids, pack_ids(emitted), reasons, told) if rids else None

    def _append(self, request: Request, token: int, now_s: float) -> FinishReason:
        """Give the request a sampled token; it leaves with its last one."""
        self.latencies.token(request, now_s)
        if request.first_s is None:
            request.first_s = now_s
        request.last_s = now_s
        finish = request.append(token, self._max_len)
        self.counters[request.klass].output_tokens += 1
        if finish is not FinishReason.NONE:
            self._finish(request)
        return finish

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
        self._queues.remove(request)
