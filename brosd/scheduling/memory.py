"""KV memory for the requests of one plan: who gets it, and who loses it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from bros.brosd.scheduling.limits import KvRules
from bros.brosd.scheduling.policies import Fallback, Policy
from bros.brosd.scheduling.queues import Queues
from bros.brosd.scheduling.request import Request
from bros.kv import Allocator, Klass, TokenChain

SPARED_AFTER = 3  # a request that was hurt and has recovered so often is hurt after all others
SAVE_AHEAD = 4  # the share of an iteration's copies that may be made in the background: 1 / this


class PlanMemory:
    """Admits requests and moves blocks as a policy allows; takes nothing from `planned` ones."""

    def __init__(self, rules: KvRules, allocator: Allocator, queues: Queues) -> None:
        self.allocator = allocator
        self._policy: Policy = Fallback(class_blind=False)
        self._rules = rules
        self._queues = queues
        self.planned: set[Request] = set()
        self._requeued: set[Klass] = set()  # classes that lost a row in this plan
        self.short: Counter[Klass] = Counter()
        """Requests left out of the plan for lack of blocks; at most one waiting one per class."""

    def begin(self) -> None:
        """Start a plan: the last one has been run."""
        self.allocator.begin_plan()
        self.planned.clear()
        self._requeued.clear()

    def serve(self, policy: Policy) -> None:
        """Let the policy say from now on whose KV may be taken."""
        self._policy = policy
        self.short.clear()

    def finish(self) -> None:
        """Use what the plan leaves of an iteration's copies."""
        self._prefetch()
        self._save_ahead()

    # -- getting ---------------------------------------------------------------------------------

    def admit(self, request: Request, max_sequences: int) -> bool:
        """Give the request a row if its whole prompt, not just a first chunk, will find room."""
        if request.klass in self._requeued:  # who lost its row in this very plan goes first
            return False
        running = self._queues.running
        victims = set(self._policy.victims(request, running))
        rivals = [other for other in running if other not in victims]
        if len(rivals) >= max_sequences or not self.allocator.num_free_rows:
            return False
        chain = TokenChain(request.tokens, self.allocator.block_size)
        wanted = self.allocator.needed(chain) + sum(self._promised(r) for r in rivals)
        if not self._can_have(wanted, request, victims - self.planned):
            self.short[request.klass] += 1
            return False
        self._queues.start(request, self.allocator.open_row(request.klass, chain))
        return True

    def reuse(self, request: Request, row: int) -> int | None:
        """Take up what there is of the request's KV; return its resident tokens.

        None if it cannot have all that it lacks: of BE rows that each have a part of what they
        need, and wait for each other, none would get on.
        """
        if request.klass is Klass.BE and not self._can_have_all(request, row):
            self.short[request.klass] += 1
            return None
        return self.allocator.reuse(row, self._preemptible_rows(request, row))

    def grow(self, request: Request, row: int, num_tokens: int) -> bool:
        """Make room for the request's first `num_tokens` tokens, by force if need be."""
        if self.allocator.grow(row, num_tokens) or self._grow_by_force(request, row, num_tokens):
            return True
        self.short[request.klass] += 1
        return False

    def _promised(self, request: Request) -> int:
        """Blocks that an admitted request has yet to take for the tokens it has."""
        return 0 if request.row is None else self.allocator.lacking(request.row)

    def _can_have_all(self, request: Request, row: int) -> bool:
        lacking = self.allocator.lacking(row)
        if lacking <= self.allocator.available(Klass.BE):
            return True
        return self._can_have(lacking, request, self._victims(request))

    def _can_have(self, num_blocks: int, request: Request, victims: Iterable[Request]) -> bool:
        """Whether the request could have so many blocks if its victims lost everything."""
        rows = (victim.row for victim in victims if victim.row is not None)
        return self.allocator.can_have(num_blocks, request.klass, rows)

    def _grow_by_force(self, request: Request, row: int, end: int) -> bool:
        """Take KV from the policy's victims; nothing is taken unless it will be enough."""
        victims = self._victims(request)
        if not self._rules.takes_all and self.allocator.grow(row, end, _be_rows(victims)):
            return True
        short = self.allocator.blocks_for(end) - self.allocator.held(row)
        if not self._can_have(short, request, victims):
            return False
        for victim in victims:
            self._preempt(victim)
            if self.allocator.grow(row, end):
                return True
        return False

    # -- losing ----------------------------------------------------------------------------------

    def _victims(self, request: Request) -> list[Request]:
        """Whom the request may hurt, by the policy; among BE rows, those whose loss costs least."""
        victims = self._policy.victims(request, self._queues.running)
        victims = [victim for victim in victims if victim not in self.planned]
        return victims if self._rules.takes_all else sorted(victims, key=self._cost)

    def _cost(self, victim: Request) -> tuple[bool, bool, bool, int]:
        """A row that is hurt already is hurt again before a second one; RT comes last."""
        if victim.klass is Klass.RT or victim.row is None:
            return True, False, False, 0
        spared = victim.recoveries >= SPARED_AFTER
        hurt = self.allocator.is_hurt(victim.row)
        return False, spared, not hurt, self.allocator.tail_loss(victim.row)

    def _preemptible_rows(self, request: Request, row: int) -> list[int]:
        """Rows whose tail blocks the request may take for tokens that it has in host memory."""
        lacking = self.allocator.lacking(row)
        if self._rules.takes_all or lacking <= self.allocator.available(request.klass):
            return []
        return _be_rows(self._victims(request))

    def _preempt(self, victim: Request) -> None:
        """Take everything: in `swap` mode a BE row keeps its place, otherwise it waits again."""
        if victim.row is None or not self.allocator.held(victim.row):
            return
        victim.recoveries += 1
        if victim.klass is Klass.BE and self._rules.mode != "recompute":
            self.allocator.give_up(victim.row)
            return
        self.allocator.preempt_row(victim.row)
        self._queues.requeue(victim)
        self._requeued.add(victim.klass)

    # -- ahead of time ---------------------------------------------------------------------------

    def _prefetch(self) -> None:
        """Bring back what BE rows lost and can have again, also if there was no budget to run."""
        for request in self._queues.running:
            row = request.row
            if row is None or request in self.planned or not self.allocator.is_hurt(row):
                continue
            if self.allocator.lacking(row) <= self.allocator.available(Klass.BE):
                self.allocator.reuse(row)

    def _save_ahead(self) -> None:
        """With few blocks free, save what is likely to be lost next."""
        enough = self._rules.low_water - self.allocator.num_free
        if self._rules.takes_all or enough <= 0:
            return
        running = reversed(self._queues.running)
        best_effort = [request for request in running if request.klass is Klass.BE]
        likely = _be_rows(sorted(best_effort, key=self._cost))
        self.allocator.save_ahead(likely, enough, self.allocator.max_copies // SAVE_AHEAD)


def _be_rows(requests: Iterable[Request]) -> list[int]:
    """Rows of the BE requests: RT never loses a part of its KV."""
    return [r.row for r in requests if r.klass is Klass.BE and r.row is not None]
