"""An allocator, a worker that does what the table says, and a hypothesis machine that drives both.

The worker writes a number into each slot that depends on all tokens up to the slot's own. So a row
that reads a slot notices if it was overwritten, lost or restored wrongly.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from bros.kv import (
    Allocator,
    BlockTable,
    CopyKind,
    Klass,
    KvCosts,
    KvOptions,
    TableGeometry,
    TokenChain,
    slot_of,
)
from bros.kv.invariants import check

BLOCK, NUM_BLOCKS, MAX_ROWS, HOST_SLOTS, MAX_COPIES = 4, 8, 6, 5, 6
MAX_LEN = (NUM_BLOCKS - 1) * BLOCK
GEOMETRY = TableGeometry(NUM_BLOCKS, BLOCK, MAX_ROWS, MAX_LEN, HOST_SLOTS, MAX_COPIES)


def content(tokens: list[int], position: int) -> int:
    """Stand for the KV of a token, which depends on the token and all before it."""
    return hash(tuple(tokens[: position + 1]))


class ModelWorker:
    """A pool and a host pool with one number per slot; runs copies and chunks as a worker must."""

    def __init__(self, table: BlockTable) -> None:
        self.table = table
        geometry = table.geometry
        self.pool = np.zeros((geometry.num_blocks, geometry.block_size), np.int64)
        self.host = np.zeros((geometry.host_slots, geometry.block_size), np.int64)

    def copy(self, num_copies: int) -> None:
        pools = {
            CopyKind.SAVE: (self.pool, self.host),
            CopyKind.RESTORE: (self.host, self.pool),
            CopyKind.MOVE: (self.pool, self.pool),
        }
        for kind, source, target, slots in self.table.copies[:num_copies].tolist():
            giver, taker = pools[CopyKind(kind)]
            taker[target, -slots:] = giver[source, -slots:]

    def write(self, row: int, tokens: list[int], start: int, end: int) -> None:
        klass, size = Klass(int(self.table.klass[row])), self.table.geometry.block_size
        for position in range(start, end):
            block = self.table.blocks[row, position // size]
            self.pool[block, slot_of(klass, position, size)] = content(tokens, position)

    def read(self, row: int, tokens: list[int], num_tokens: int) -> None:
        """Fail unless attention would find all resident tokens of the row."""
        klass, size = Klass(int(self.table.klass[row])), self.table.geometry.block_size
        for first in range(0, num_tokens, size):
            end = min(first + size, num_tokens)
            slots = [slot_of(klass, position, size) for position in range(first, end)]
            found = self.pool[self.table.blocks[row, first // size]][slots].tolist()
            wanted = [content(tokens, position) for position in range(first, end)]
            if end - first == size:  # a full block may have been written from the other side
                found, wanted = sorted(found), sorted(wanted)
            assert found == wanted, f"row {row} reads what is not its KV from token {first} on"


class KvMachine(RuleBasedStateMachine):
    """Random plans over random rows: admit, append, share, preempt, save, restore, drop, finish."""

    num_steps = 0

    @initialize(share=st.booleans(), prefix=st.booleans(), keep_copies=st.booleans())
    def start(self, share: bool, prefix: bool, keep_copies: bool) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.options = KvOptions(1, 1, share, prefix, keep_copies)
        self.costs = KvCosts()
        self.attach()

    def attach(self) -> None:
        path = Path(self.folder.name) / "table"
        table = BlockTable(path, GEOMETRY)
        table.unlink()
        self.allocator = Allocator(table, self.options, self.costs)
        self.worker = ModelWorker(table)
        self.tokens: dict[int, list[int]] = {}
        self.plan: dict[int, tuple[int, int]] = {}

    def teardown(self) -> None:
        if not hasattr(self, "folder"):
            return
        self.run()
        for row in list(self.tokens):
            self.allocator.close_row(row)
        check(self.allocator)
        assert self.allocator.num_free == NUM_BLOCKS
        assert self.allocator.num_host_used == 0
        self.folder.cleanup()

    def klass(self, row: int) -> Klass:
        return Klass(int(self.allocator.table.klass[row]))

    def pick(self, rows: list[int], which: int) -> int | None:
        rows = [row for row in rows if row not in self.plan]
        return rows[which % len(rows)] if rows else None

    # -- rows ------------------------------------------------------------------------------------

    @rule(klass=st.sampled_from(Klass), length=st.integers(1, 20), variant=st.integers(0, 2))
    def admit(self, klass: Klass, length: int, variant: int) -> None:
        """Open a row. All prompts begin with the same two blocks; a variant has its own rest."""
        if len(self.tokens) < MAX_ROWS:
            tokens = [position if position < 8 else variant for position in range(length)]
            row = self.allocator.open_row(klass, TokenChain(tokens, BLOCK))
            assert row not in self.tokens
            self.tokens[row] = tokens

    @rule(which=st.integers(0, 5), count=st.integers(1, 6))
    def append(self, which: int, count: int) -> None:
        row = self.pick(list(self.tokens), which)
        if row is not None:
            room = MAX_LEN - len(self.tokens[row])
            self.tokens[row].extend([len(self.tokens[row])] * min(count, room))

    @rule(which=st.integers(0, 5), seldom=st.integers(0, 3))
    def finish(self, which: int, seldom: int) -> None:
        row = self.pick(list(self.tokens), which)
        if row is not None and not seldom:
            self.allocator.close_row(row)
            del self.tokens[row]

    # -- plans -----------------------------------------------------------------------------------

    @rule(
        chunks=st.lists(
            st.tuples(st.integers(0, 5), st.integers(1, 12), st.booleans()), min_size=1, max_size=4
        )
    )
    def plan_more(self, chunks: list[tuple[int, int, bool]]) -> None:
        """Plan the next tokens of some rows; some of them may take blocks of BE rows."""
        for which, count, forceful in chunks:
            row = self.pick(list(self.tokens), which)
            if row is not None:
                self.chunk(row, count, forceful)

    @rule()
    def decode(self) -> None:
        """Compute each row that lacks one token, RT first, and append the next one to it."""
        for row in sorted(self.tokens, key=self.klass):
            missing = len(self.tokens[row]) - self.allocator.resident(row)
            if row not in self.plan and missing == 1:
                self.chunk(row, 1, forceful=self.klass(row) is Klass.RT)
        self.run()
        for row, tokens in self.tokens.items():
            if self.allocator.resident(row) == len(tokens) < MAX_LEN:
                tokens.append(len(tokens))

    def chunk(self, row: int, count: int, forceful: bool) -> None:
        victims = [other for other in self.tokens if other != row and self.klass(other) is Klass.BE]
        start = self.allocator.reuse(row, victims if forceful else ())
        end = min(start + count, len(self.tokens[row]))
        if start == end:
            return
        single = end == start + 1 and self.allocator.grow_by_one(row)
        if single or self.allocator.grow(row, end, victims if forceful else ()):
            self.plan[row] = (start, end)
        elif forceful and self.klass(row) is Klass.RT:
            self.must_lack(row, end)

    def must_lack(self, row: int, end: int) -> None:
        """RT may only lack blocks if RT rows and rows in the plan hold the others."""
        table = self.allocator.table
        kept = set()
        for other in self.tokens:
            if self.klass(other) is Klass.RT or other in self.plan:
                kept.update(table.blocks[other, : self.allocator.held(other)].tolist())
        needed = self.allocator.blocks_for(end) - self.allocator.held(row)
        tail = table.blocks[row, self.allocator.held(row) - 1] if self.allocator.held(row) else 0
        meets = int(table.be_row[tail]) in self.plan and int(table.rt_row[tail]) == row
        assert needed > NUM_BLOCKS - len(kept) or meets

    @rule(which=st.integers(0, 5), seldom=st.integers(0, 1))
    def preempt(self, which: int, seldom: int) -> None:
        row = self.pick([row for row in self.tokens if self.klass(row) is Klass.BE], which)
        if row is not None and not seldom:
            self.allocator.give_up(row)

    @rule(which=st.integers(0, 5), count=st.integers(1, 3))
    def save(self, which: int, count: int) -> None:
        rows = [row for row in self.tokens if self.klass(row) is Klass.BE]
        self.allocator.save_ahead(rows[which % len(rows) :] if rows else [], count + 2, count)

    @rule(cheap=st.booleans())
    def reprice(self, cheap: bool) -> None:
        """Let copies pay from now on, or recomputing."""
        self.costs.compute_s_per_token = 1.0
        self.costs.copy_s_per_block = 0.0 if cheap else 100.0

    @rule()
    def run(self) -> None:
        """Run the plan; then every resident token must be where it belongs."""
        self.worker.copy(self.allocator.num_copies)
        for row, (start, end) in self.plan.items():
            self.worker.write(row, self.tokens[row], start, end)
        for row, tokens in self.tokens.items():
            self.worker.read(row, tokens, self.allocator.resident(row))
        self.plan.clear()
        self.allocator.begin_plan()

    @rule(seldom=st.integers(0, 29))
    def lose_worker(self, seldom: int) -> None:
        if not seldom:
            self.attach()

    @invariant()
    def holds(self) -> None:
        if hasattr(self, "allocator"):
            type(self).num_steps += 1
            check(self.allocator)
