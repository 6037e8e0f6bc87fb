"""Gives KV blocks to sequence rows: everything that writes a block table goes through here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bros.kv.layout import Klass
from bros.kv.pool_state import PoolState
from bros.kv.prefix import TokenChain
from bros.kv.row import Row


class Allocator(PoolState):
    """Changes the pool. Per plan: `begin_plan`, then `reuse` and `grow` row after row."""

    def open_row(self, klass: Klass, chain: TokenChain) -> int:
        """Return a new, empty row for the tokens of `chain`, which may grow.

        Raise NoFreeRow if all rows are in use.
        """
        row = self._rows.open(klass, chain)
        self.counters.prefix_asked_tokens[klass] += len(chain)
        return row.index

    def close_row(self, index: int) -> None:
        """Free the row, its blocks and its copies."""
        row = self._rows[index]
        self._checkpoints.discard_all(row)
        for block in reversed(row.blocks):  # the oldest content is the last to be evicted
            self._blocks.release(block, row.klass)
        self._rows.close(row)

    def preempt_row(self, index: int) -> None:
        """Close the row of a request that must wait again, and count what it loses."""
        self._reclaimer.count_lost_row(self._rows[index])
        self.close_row(index)

    # -- plans -----------------------------------------------------------------------------------

    def begin_plan(self) -> None:
        """Start a plan. The last one has been run: its copies are made, its rows can be hurt."""
        self._checkpoints.begin_plan()
        self._rows.begin_plan()

    def reuse(self, index: int, victims: Sequence[int] = ()) -> int:
        """Continue the row with cached prefixes and host copies; return its resident tokens.

        At least one known token is left to compute: the next token is sampled from it. As in
        `grow`, blocks for copies may be taken from `victims`.
        """
        row = self._rows[index]
        self._reuse.continue_row(row, victims)
        return row.resident

    def grow(self, index: int, num_tokens: int, victims: Sequence[int] = ()) -> bool:
        """Make room for the first `num_tokens` tokens of the row.

        Return False, and change nothing, if there is no room. The added tokens count as resident:
        the caller must compute them in this plan. Blocks that are not free are taken from
        `victims`, BE rows, in their order; rows in the plan are left alone. Nothing is taken
        unless it is enough.
        """
        row = self._rows[index]
        tails = self._tails
        if not tails.has_room(row, num_tokens) and (
            tails.meets_planned(row, num_tokens) or not self._extend(row, num_tokens, victims)
        ):
            return False
        self._rows.mark_planned(row)
        for block in range(row.resident // self.block_size, len(row.blocks)):
            tails.fill(row, block, min(self.block_size, num_tokens - block * self.block_size))
        self._rows.lengthen(row, num_tokens)
        return True

    def grow_by_one(self, index: int) -> bool:
        """Make room for one more token, as `grow` does, in the cases that are quick.

        Return False, and change nothing, if the token fills its block, needs a new one or would
        take a slot of another row.
        """
        row = self._rows[index]
        length = row.resident % self.block_size + 1
        if length in (1, self.block_size):
            return False
        if not self._blocks.set_length_if_room(row.blocks[-1], row.klass, length):
            return False
        self._rows.mark_planned(row)
        self._rows.lengthen(row, row.resident + 1)
        return True

    def _extend(self, row: Row, num_tokens: int, victims: Sequence[int]) -> bool:
        """Add the blocks that `num_tokens` tokens need. Return False if they cannot be had."""
        moving = self._tails.must_move(row, num_tokens)
        count = self.blocks_for(num_tokens) - len(row.blocks) + moving
        if count <= 0:
            return True
        if moving and not self._checkpoints.hold():
            return False
        last = (num_tokens - 1) % self.block_size + 1
        blocks = self._reclaimer.obtain(row.klass, count, last, victims)
        if blocks is None:
            self._checkpoints.let_go()
            return False
        if moving:
            self._tails.move(row, blocks.pop(0))
        for block in blocks:
            self._tails.add(row, block)
        return True

    # -- BE rows that make way -------------------------------------------------------------------

    def give_up(self, index: int) -> None:
        """Take all blocks from a BE row, which stays open; they are saved where that pays."""
        row = self._rows[index]
        self._reclaimer.lose_tail(row, len(row.blocks))

    def save_ahead(self, rows: Iterable[int], enough: int, max_copies: int) -> None:
        """Save full tail blocks of these BE rows, in their order: losing them is then free.

        Make at most `max_copies` copies, and stop when `enough` blocks are saved: a copy of a block
        that is never lost was made in vain.
        """
        self._checkpoints.save_ahead((self._rows[index] for index in rows), enough, max_copies)
