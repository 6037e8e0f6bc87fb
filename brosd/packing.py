"""Fills one iteration: chunks of requests, within a token budget and the KV blocks there are."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import islice

from bros.brosd.policies import Policy
from bros.brosd.request import Request
from bros.kv import Allocator, Klass


@dataclass(frozen=True)
class Limits:
    """Bounds of one iteration and of the queue."""

    max_sequences: int
    max_batch_tokens: int
    max_waiting: int
    max_losses: int = 3  # workers a request may take down before it is the suspect


@dataclass
class Counters:
    """What happened to one class since the start, in requests and tokens."""

    finished: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    preempted_tokens: int = 0


@dataclass(frozen=True)
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
    allocator: Allocator
    running: list[Request]
    waiting: dict[Klass, deque[Request]]
    counters: dict[Klass, Counters]

    def pack(self) -> list[Chunk]:
        """Fill the token budget in the order of the policy, chunking prompts to fit."""
        budget = self.limits.max_batch_tokens
        chunks: list[Chunk] = []
        planned: set[Request] = set()
        admitting = True  # until one finds no room: who waits behind it must not overtake it
        for request in self._queue():
            if budget == 0 or len(chunks) == self.limits.max_sequences:
                break
            if request.row is None:
                admitting = admitting and self._try_admit(request, planned)
                if not admitting:
                    continue
            chunk = self._chunk(request, budget, planned)
            if chunk is not None:
                chunks.append(chunk)
                planned.add(request)
                budget -= chunk.count
        return chunks

    def _queue(self) -> list[Request]:
        """The policy's order, of which no more can be admitted than there are sequences."""
        heads = {
            klass: list(islice(queue, self.limits.max_sequences))
            for klass, queue in self.waiting.items()
        }
        return list(self.policy.queue(self.running, heads))

    def _try_admit(self, request: Request, planned: set[Request]) -> bool:
        """Give the request a row if its whole prompt, not just a first chunk, will find room."""
        queue = self.waiting[request.klass]
        if queue[0] is not request:  # one that lost its row in this very plan goes first
            return False
        victims = set(self.policy.victims(request, self.running))
        rivals = [other for other in self.running if other not in victims]
        if len(rivals) >= self.limits.max_sequences:
            return False
        room = self.allocator.spare(request.klass)
        room += sum(self.allocator.held(v.row) for v in victims - planned if v.row is not None)
        room -= sum(self._promised(rival) for rival in rivals)
        if self.allocator.blocks_for(len(request.tokens)) > room:
            return False
        queue.popleft()
        request.row = self.allocator.open_row(request.klass)
        request.known_to_worker = False
        self.running.append(request)
        return True

    def _promised(self, request: Request) -> int:
        """Blocks that an admitted request has yet to take for the tokens it has."""
        held = self.allocator.held(request.row) if request.row is not None else 0
        return max(0, self.allocator.blocks_for(len(request.tokens)) - held)

    def _chunk(self, request: Request, budget: int, planned: set[Request]) -> Chunk | None:
        """The next tokens of an admitted request, None if memory for them cannot be had."""
        row = request.row
        if row is None:
            return None
        start = self.allocator.resident(row)
        count = min(len(request.tokens) - start, budget)
        if not self.allocator.grow(row, start + count):
            if not self._make_room(request, start + count, planned):
                return None
            self.allocator.grow(row, start + count)
        return Chunk(request, row, start, count, start + count == len(request.tokens))

    def _make_room(self, request: Request, num_tokens: int, planned: set[Request]) -> bool:
        """Take KV from the policy's victims; nothing is taken unless it will be enough."""
        row = request.row
        victims = [v for v in self.policy.victims(request, self.running) if v not in planned]
        takeable = sum(self.allocator.held(v.row) for v in victims if v.row is not None)
        if row is None or self.allocator.missing(row, num_tokens) > takeable:
            return False
        for victim in victims:
            missing = self.allocator.missing(row, num_tokens)
            if missing == 0:
                break
            self._preempt(victim, missing)
        return True

    def _preempt(self, victim: Request, num_blocks: int) -> None:
        """Take up to `num_blocks` tail blocks of a BE row; otherwise all, and let it wait."""
        if victim.row is None:
            return
        before = self.allocator.resident(victim.row)
        counters = self.counters[victim.klass]
        if victim.klass is Klass.BE and not self.policy.preempts_whole:
            lost = self.allocator.drop_tail(
                victim.row, min(num_blocks, self.allocator.held(victim.row))
            )
            counters.preempted_tokens += lost
            return
        self.allocator.close_row(victim.row)
        counters.preempted_tokens += before
        victim.row = None
        self.running.remove(victim)
        self.waiting[victim.klass].appendleft(victim)
