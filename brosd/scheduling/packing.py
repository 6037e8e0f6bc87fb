"""Fills one iteration: chunks of requests, within its time, its tokens and the KV blocks."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from bros.brosd.protocol.wire import MAX_MESSAGE_BYTES
from bros.brosd.scheduling.budget import BeCredit, Budget
from bros.brosd.scheduling.cost_model import CostModel, IterationLoad
from bros.brosd.scheduling.limits import KvRules, Limits
from bros.brosd.scheduling.memory import PlanMemory
from bros.brosd.scheduling.policies import Agenda, Policy
from bros.brosd.scheduling.queues import Queues
from bros.brosd.scheduling.request import Request
from bros.kv import Allocator, Klass

MAX_NEW_ROW_BYTES = MAX_MESSAGE_BYTES // 2  # the rest is for what every plan has


@dataclass(slots=True, eq=False)
class Chunk:
    """The part of a request that one iteration computes: `count` tokens from `start`."""

    request: Request
    row: int
    start: int
    count: int
    samples: bool


class Packer:
    """Packs for one worker: `begin` a plan, `fill` it as a policy says, `finish` it.

    A chunk that is in the plan stays there, since its blocks are taken: if `fill` raises an
    exception, another `fill` goes on from there.
    """

    def __init__(
        self, limits: Limits, rules: KvRules, allocator: Allocator, queues: Queues
    ) -> None:
        self.allocator = allocator
        self._limits = limits
        self._queues = queues
        self._memory = PlanMemory(rules, allocator, queues)
        self._credit = BeCredit(limits.be_floor)
        self.chunks: list[Chunk] = []
        self.load = IterationLoad()
        self._new_row_bytes = 0  # in the plan's message

    @property
    def short_of_memory(self) -> Counter[Klass]:
        """Requests left out of the last plan for lack of blocks; at most one waiting per class."""
        return self._memory.short

    def begin(self) -> None:
        """Start an empty plan: the last one has been run."""
        self._memory.begin()
        self.chunks = []
        self._new_row_bytes = 0

    def fill(self, policy: Policy, cost: CostModel, now_s: float) -> None:
        """Fill the iteration in the order of the policy, chunking prompts to fit."""
        self._memory.serve(policy)
        limits = self._limits
        window = self._queues.window(limits.max_sequences)
        agenda = policy.agenda(self._queues.running, window, now_s, cost)
        budget = Budget(cost, agenda.limit_s, limits.max_batch_tokens, limits.max_sequences)
        for chunk in self.chunks:
            budget.take(chunk.start, chunk.count)
        be_s = self._follow(agenda, budget)
        self._credit.settle(budget.spent_s, be_s, self._queues.has(Klass.BE))
        self.load = budget.load

    def finish(self) -> None:
        """Use what the plan leaves of an iteration's copies, and count them."""
        self._memory.finish()
        self.load.copies = self.allocator.num_copies

    def _follow(self, agenda: Agenda, budget: Budget) -> float:
        """Go through the agenda; return the seconds that BE, and what came after it, has got."""
        before_be_s: float | None = None
        blocked: set[Klass] = set()  # once one finds no room, none of its class overtakes it
        for request in list(agenda.requests):
            if request in self._memory.planned or not self._fits_message(request):
                continue
            if request.klass is Klass.BE and before_be_s is None:
                before_be_s = budget.spent_s
                budget.narrow(agenda.be_limit_s, self._credit.seconds)
            if budget.is_spent:
                break
            urgent = request in agenda.urgent
            if request.row is None and not self._admit(request, budget, urgent, blocked):
                continue
            self._plan(request, budget, urgent)
        return 0.0 if before_be_s is None else budget.spent_s - before_be_s

    def _fits_message(self, request: Request) -> bool:
        """Return whether the plan's message has room for what the worker must learn of a request.

        If not, the request waits for the next plan. A request alone always fits.
        """
        if request.known_to_worker or not self._new_row_bytes:
            return True
        return self._new_row_bytes + request.new_row_bytes <= MAX_NEW_ROW_BYTES

    def _admit(self, request: Request, budget: Budget, urgent: bool, blocked: set[Klass]) -> bool:
        """Admit a waiting request, if its first chunk fits too."""
        if request.klass in blocked or not budget.fit(0, len(request.tokens), urgent):
            return False
        if self._memory.admit(request, self._limits.max_sequences):
            return True
        blocked.add(request.klass)
        return False

    def _plan(self, request: Request, budget: Budget, urgent: bool) -> None:
        """Plan the next tokens of an admitted request, if there is time and memory for them."""
        chunk = self._decode(request, budget, urgent) or self._chunk(request, budget, urgent)
        if chunk is not None:
            self.chunks.append(chunk)
            self._memory.planned.add(request)
            if not request.known_to_worker:
                self._new_row_bytes += request.new_row_bytes
            budget.take(chunk.start, chunk.count)

    def _decode(self, request: Request, budget: Budget, urgent: bool) -> Chunk | None:
        """The next token of a request that has all others in memory, and room for this one.

        Most chunks are such; for all others, and if it does not fit, there is `_chunk`.
        """
        row, start = request.row, request.num_computed
        known = start + 1
        if row is None or known != len(request.tokens) or start != self.allocator.resident(row):
            return None
        if not (budget.fits_decode(start, urgent) and self.allocator.grow_by_one(row)):
            return None
        request.num_computed = known
        return Chunk(request, row, start, 1, True)

    def _chunk(self, request: Request, budget: Budget, urgent: bool) -> Chunk | None:
        """The next tokens of an admitted request; None if there is no time or memory for them."""
        row = request.row
        if row is None:
            return None
        start = before = self.allocator.resident(row)
        known = stop = len(request.tokens)
        if start < known - 1:  # not just a decode
            resident = self._memory.reuse(request, row)
            if resident is None:
                return None
            start = resident
            stop = self.allocator.next_copy(row) or known
        end = start + budget.fit(start, stop, urgent)
        if end == start or not self._memory.grow(request, row, end):
            return None
        if before < request.num_computed:  # it had lost some
            again = min(end, request.num_computed) - start
            self.allocator.counters.recomputed_tokens += max(0, again)
            request.recoveries += end == known
        request.num_computed = max(end, request.num_computed)
        return Chunk(request, row, start, end - start, samples=end == known)
