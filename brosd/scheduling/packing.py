"""Fills one iteration: chunks of requests, within its time, its tokens and the KV blocks."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from itertools import islice

from bros.brosd.config import KvMode
from bros.brosd.scheduling.budget import Budget
from bros.brosd.scheduling.cost_model import CostModel, IterationLoad
from bros.brosd.scheduling.policies import Agenda, Policy
from bros.brosd.scheduling.request import Request
from bros.kv import Allocator, Klass, TokenChain

SPARED_AFTER = 3  # a request that was hurt and has recovered so often is hurt after all others
SAVE_AHEAD = 4  # the share of an iteration's copies that may be made in the background: 1 / this


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


@dataclass
class Counters:
    """What happened to one class since the start, in requests and tokens."""

    finished: int = 0
    in_time: int = 0  # of those finished, with their objectives met
    prompt_tokens: int = 0
    output_tokens: int = 0


@dataclass(slots=True, eq=False)
class Chunk:
    """The part of a request that one iteration computes: `count` tokens from `start`."""

    request: Request
    row: int
    start: int
    count: int
    samples: bool


@dataclass
class Packer:
    """Packs for one worker; moves requests between the scheduler's `waiting` and `running`."""

    policy: Policy
    limits: Limits
    kv: KvRules
    cost: CostModel
    allocator: Allocator
    running: list[Request]
    waiting: dict[Klass, deque[Request]]
    load: IterationLoad = field(default_factory=IterationLoad)  # of the last plan
    _be_credit_s: float = 0.0
    _requeued: set[Klass] = field(default_factory=set)  # classes that lost a row in this plan
    short_of_memory: Counter[Klass] = field(default_factory=Counter)
    """Requests that are not in the last plan because blocks lack; of those that wait, one."""

    def pack(self, now_s: float) -> list[Chunk]:
        """Fill the iteration in the order of the policy, chunking prompts to fit."""
        self.allocator.begin_plan()
        self.short_of_memory.clear()
        self._requeued.clear()
        agenda = self._agenda(now_s)
        budget = Budget(
            self.cost, agenda.limit_s, self.limits.max_batch_tokens, self.limits.max_sequences
        )
        chunks: list[Chunk] = []
        planned: set[Request] = set()
        blocked: set[Klass] = set()  # once one finds no room, none of its class overtakes it
        rt_s: float | None = None  # what is spent before BE's turn
        for request in list(agenda.requests):
            if request.klass is Klass.BE and rt_s is None:
                rt_s = budget.spent_s
                budget.narrow(agenda.be_limit_s, self._be_credit_s)
            if budget.is_spent:
                break
            urgent = request in agenda.urgent
            if request.row is None:
                if request.klass in blocked or not budget.fit(0, len(request.tokens), urgent):
                    continue
                if not self._try_admit(request, planned):
                    blocked.add(request.klass)
                    continue
            chunk = self._decode(request, budget, urgent)
            chunk = chunk or self._chunk(request, budget, planned, urgent)
            if chunk is not None:
                chunks.append(chunk)
                planned.add(request)
                budget.take(chunk.start, chunk.count)
        self._settle_credit(budget.spent_s, 0.0 if rt_s is None else budget.spent_s - rt_s)
        self._prefetch(planned)
        self._save_ahead()
        budget.load.copies = self.allocator.num_copies
        self.load = budget.load
        return chunks

    def _settle_credit(self, spent_s: float, be_s: float) -> None:
        """Of `spent_s`, BE has had `be_s`; what it lacks to its floor it has later."""
        owed_s = self._be_credit_s + self.limits.be_floor * spent_s - be_s
        wants = self.waiting[Klass.BE] or any(r.klass is Klass.BE for r in self.running)
        self._be_credit_s = max(0.0, owed_s) if wants else 0.0

    def _agenda(self, now_s: float) -> Agenda:
        """The policy's, over as many of the oldest waiting requests as there are sequences.

        Of RT also over as many of the newest: with too many to serve, only those can be in time.
        """
        most = self.limits.max_sequences
        heads = {klass: list(islice(queue, most)) for klass, queue in self.waiting.items()}
        rt = self.waiting[Klass.RT]
        newest = islice(reversed(rt), max(0, min(most, len(rt) - most)))
        heads[Klass.RT].extend(reversed(list(newest)))
        return self.policy.agenda(self.running, heads, now_s, self.cost)

    def _try_admit(self, request: Request, planned: set[Request]) -> bool:
        """Give the request a row if its whole prompt, not just a first chunk, will find room."""
        if request.klass in self._requeued:  # who lost its row in this very plan goes first
            return False
        victims = set(self.policy.victims(request, self.running))
        rivals = [other for other in self.running if other not in victims]
        if len(rivals) >= self.limits.max_sequences or not self.allocator.num_free_rows:
            return False
        chain = TokenChain(request.tokens, self.allocator.block_size)
        wanted = self.allocator.needed(chain) + sum(self._promised(r) for r in rivals)
        if not self._can_have(wanted, request, victims - planned):
            self.short_of_memory[request.klass] += 1
            return False
        self.waiting[request.klass].remove(request)
        request.row = self.allocator.open_row(request.klass, chain)
        request.known_to_worker = False
        self.running.append(request)
        return True

    def _can_have(self, num_blocks: int, request: Request, victims: Iterable[Request]) -> bool:
        """Whether the request could have so many blocks if its victims lost everything."""
        rows = (victim.row for victim in victims if victim.row is not None)
        return self.allocator.can_have(num_blocks, request.klass, rows)

    def _promised(self, request: Request) -> int:
        """Blocks that an admitted request has yet to take for the tokens it has."""
        return 0 if request.row is None else self.allocator.lacking(request.row)

    @property
    def whole(self) -> bool:
        """Whether a victim loses all its KV, not only what is needed."""
        return self.kv.mode != "bidirectional"

    def _victims(self, request: Request, planned: Container[Request] = ()) -> list[Request]:
        """Whom the request may hurt, by the policy; among BE rows, those whose loss costs least."""
        victims = [v for v in self.policy.victims(request, self.running) if v not in planned]
        return victims if self.whole else sorted(victims, key=self._cost)

    def _cost(self, victim: Request) -> tuple[bool, bool, bool, int]:
        """A row that is hurt already is hurt again before a second one; RT comes last."""
        if victim.klass is Klass.RT or victim.row is None:
            return True, False, False, 0
        spared = victim.recoveries >= SPARED_AFTER
        hurt = self.allocator.is_hurt(victim.row)
        return False, spared, not hurt, self.allocator.tail_loss(victim.row)

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

    def _chunk(
        self, request: Request, budget: Budget, planned: set[Request], urgent: bool
    ) -> Chunk | None:
        """The next tokens of an admitted request, None if time or memory for them lacks."""
        row = request.row
        if row is None:
            return None
        start = before = self.allocator.resident(row)
        known = stop = len(request.tokens)
        if start < known - 1:  # not just a decode
            if not self._fits(request, row, planned):
                self.short_of_memory[request.klass] += 1
                return None
            start = self.allocator.reuse(row, self._preemptible_rows(request, row, planned))
            stop = self.allocator.next_copy(row) or known
        end = start + budget.fit(start, stop, urgent)
        if end == start:
            return None
        if not (self.allocator.grow(row, end) or self._grow_by_force(request, row, end, planned)):
            self.short_of_memory[request.klass] += 1
            return None
        if before < request.num_computed:  # it had lost some
            again = min(end, request.num_computed) - start
            self.allocator.counters.recomputed_tokens += max(0, again)
            request.recoveries += end == known
        request.num_computed = max(end, request.num_computed)
        return Chunk(request, row, start, end - start, samples=end == known)

    def _fits(self, request: Request, row: int, planned: set[Request]) -> bool:
        """Whether a BE row can have all that it lacks.

        Rows that each have a part of what they need, and wait for each other, would be no use.
        """
        if request.klass is Klass.RT:
            return True
        lacking = self.allocator.lacking(row)
        if lacking <= self.allocator.available(Klass.BE):
            return True
        return self._can_have(lacking, request, self._victims(request, planned))

    def _preemptible_rows(self, request: Request, row: int, planned: set[Request]) -> list[int]:
        """Rows whose tail blocks the request may take for tokens that it has in host memory."""
        if self.whole or self.allocator.lacking(row) <= self.allocator.available(request.klass):
            return []
        return self._rows_of(self._victims(request, planned))

    def _rows_of(self, victims: Iterable[Request]) -> list[int]:
        """Their rows, if they are BE: RT never loses a part."""
        return [v.row for v in victims if v.klass is Klass.BE and v.row is not None]

    def _grow_by_force(self, request: Request, row: int, end: int, planned: set[Request]) -> bool:
        """Take KV from the policy's victims; nothing is taken unless it will be enough."""
        victims = self._victims(request, planned)
        if not self.whole and self.allocator.grow(row, end, self._rows_of(victims)):
            return True
        short = self.allocator.blocks_for(end) - self.allocator.held(row)
        if not self._can_have(short, request, victims):
            return False
        for victim in victims:
            self._preempt(victim)
            if self.allocator.grow(row, end):
                return True
        return False

    def _prefetch(self, planned: set[Request]) -> None:
        """Bring back what BE rows lost and can have again, also if there was no budget to run."""
        for request in self.running:
            row = request.row
            if row is None or request in planned or not self.allocator.is_hurt(row):
                continue
            if self.allocator.lacking(row) <= self.allocator.available(Klass.BE):
                self.allocator.reuse(row)

    def _save_ahead(self) -> None:
        """With few blocks free, save what is likely to be lost next."""
        enough = self.kv.low_water - self.allocator.num_free
        if self.whole or enough <= 0:
            return
        best_effort = [request for request in reversed(self.running) if request.klass is Klass.BE]
        likely = self._rows_of(sorted(best_effort, key=self._cost))
        self.allocator.save_ahead(likely, enough, self.allocator.max_copies // SAVE_AHEAD)

    def _preempt(self, victim: Request) -> None:
        """Take everything: in `swap` mode a BE row keeps its place, otherwise it waits again."""
        if victim.row is None or not self.allocator.held(victim.row):
            return
        victim.recoveries += 1
        if victim.klass is Klass.BE and self.kv.mode != "recompute":
            self.allocator.give_up(victim.row)
            return
        self.allocator.preempt_row(victim.row)
        victim.row = None
        self.running.remove(victim)
        self.waiting[victim.klass].appendleft(victim)
        self._requeued.add(victim.klass)
