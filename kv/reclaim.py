"""Where a row's next block comes from, and who loses it.

An RT row gets, in this order: a free block above the reserve, the left side of a BE tail, a block
of the reserve, a BE tail that is preempted. A BE row gets a free block above the reserve, the right
side of an RT tail, or tail blocks of its victims. A BE row always loses its tail: block by block
or, where an RT tail grows into it, token by token. What is lost is saved to the host if that pays;
otherwise it is computed again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bros.kv.blocks import Blocks
from bros.kv.checkpoints import CheckpointPlanner
from bros.kv.counters import KvCounters
from bros.kv.layout import Klass
from bros.kv.row import Row
from bros.kv.rows import RowTable

Losses = list[tuple[Row, int]]  # each row, and how many tail blocks it loses


@dataclass(frozen=True)
class KvOptions:
    """How the pool is shared. `rt_reserve` and `rt_cached` are in blocks."""

    rt_reserve: int = 0  # free blocks that BE must leave
    rt_cached: int = 0  # cached prefixes of RT that BE must not evict
    share: bool = True  # an RT tail and a BE tail may lie in one block
    prefix: bool = True  # full blocks are found again by their content
    keep_copies: bool = True  # a host copy stays valid after it was restored


class BlockReclaimer:
    """Finds blocks for rows; takes none from rows in the plan."""

    def __init__(
        self,
        block_size: int,
        options: KvOptions,
        rows: RowTable,
        blocks: Blocks,
        checkpoints: CheckpointPlanner,
        counters: KvCounters,
    ) -> None:
        self._size = block_size
        self._options = options
        self._rows = rows
        self._blocks = blocks
        self._checkpoints = checkpoints
        self._counters = counters

    def obtain(
        self, klass: Klass, count: int, last: int, victims: Sequence[int]
    ) -> list[int] | None:
        """Return `count` blocks, of which the last needs only `last` slots.

        Return None, and change nothing, if they cannot be had. No block has an owner of this
        class; the last may have one of the other class.
        """
        may_share = self._options.share and last < self._size
        free = self._blocks.free
        if count <= min(free.num_spare, free.available(klass)):
            return [self._blocks.pop_free() for _ in range(count)]
        shared = self._half_empty(klass, last) if may_share else None
        if count - (shared is not None) > free.available(klass):
            if klass is Klass.RT:
                shared = None  # its BE row may be among the victims
            losses = self._losses(klass, victims, count - (shared is not None))
            if losses is None:
                return None
            if klass is Klass.RT and may_share:
                shared = self._join_last(losses)
            for row, num_blocks in losses:
                self.lose_tail(row, num_blocks)
        blocks = [self._blocks.pop_free() for _ in range(count - (shared is not None))]
        return blocks if shared is None else [*blocks, shared]

    def _half_empty(self, klass: Klass, slots: int) -> int | None:
        """Return the emptiest tail block of the other class if `slots` slots of it are free."""
        best, most = None, slots - 1
        for row in self._rows:
            if row.klass is klass or row.resident % self._size == 0:
                continue
            block = row.blocks[-1]
            if self._blocks.owner(block, klass) is None:
                room = self._blocks.room(block, klass)
                if room > most:
                    best, most = block, room
        return best

    # -- losing ----------------------------------------------------------------------------------

    def _losses(self, taker: Klass, victims: Sequence[int], wanted: int) -> Losses | None:
        """Return how many tail blocks each victim must lose so that `wanted` are available.

        Return None if no loss is enough.
        """
        rows = [self._rows[index] for index in victims if not self._rows.is_planned(index)]
        losses: Losses = []
        more = more_rt = 0
        for row in rows:
            count = 0
            for depth, block in enumerate(reversed(row.blocks), 1):
                if self._blocks.becomes_free(block):
                    count, more = depth, more + 1
                    more_rt += self._blocks.is_rt_prefix(block)
                    if self._blocks.free.available(taker, more, more_rt) >= wanted:
                        return [*losses, (row, count)]
            if count:
                losses.append((row, count))
        return self._joint_losses(taker, rows, wanted)

    def _joint_losses(self, taker: Klass, rows: list[Row], wanted: int) -> Losses | None:
        """The same for rows that lose all blocks: then also those that only they share are free."""
        count = self.num_needed(rows, taker, wanted)
        return None if count is None else [(row, len(row.blocks)) for row in rows[:count]]

    def num_needed(self, rows: Iterable[Row], taker: Klass, wanted: int) -> int | None:
        """Return how many of the rows, in their order, must lose all blocks for `wanted` blocks.

        Return None if all of them are too few.
        """
        if self._blocks.free.available(taker) >= wanted:
            return 0
        leaving: Counter[int] = Counter()
        more = more_rt = 0
        for count, row in enumerate(rows, 1):
            for block in row.blocks:
                leaving[block] += 1
                if self._blocks.becomes_free(block, leaving[block]):
                    more += 1
                    more_rt += self._blocks.is_rt_prefix(block)
            if self._blocks.free.available(taker, more, more_rt) >= wanted:
                return count
        return None

    def _join_last(self, losses: Losses) -> int | None:
        """Return the last block that would be lost, to share it instead, if that is possible."""
        row, num_blocks = losses[-1]
        block = row.blocks[-num_blocks]
        if not self._blocks.joinable(block):
            return None
        losses[-1] = (row, num_blocks - 1)
        self._blocks.unpublish(block, row.index)
        return block

    def lose_tail(self, row: Row, num_blocks: int) -> None:
        """Take the row's last blocks; what only this row has is saved to the host or dropped."""
        first = len(row.blocks) - num_blocks
        if num_blocks:
            self._count_loss(row, num_blocks, row.resident - first * self._size)
        for index in range(len(row.blocks) - 1, first - 1, -1):
            length = row.resident - index * self._size
            if self._blocks.readers(row.blocks[-1]) <= 1:
                self._checkpoints.save_or_drop(row, index, length)
            self._blocks.release(self._rows.pop_block(row), row.klass)
            self._rows.shorten(row, row.resident - length)

    def evict_be_overlap(self, block: int, room: int) -> None:
        """RT needs all but `room` slots of the block: its BE owner loses its newest tokens."""
        owner = self._blocks.owner(block, Klass.BE)
        if owner is None:
            return
        row, length = self._rows[owner], self._blocks.length(block, Klass.BE)
        if length <= room:
            return
        self._count_loss(row, 0, length - room)
        self._checkpoints.save_or_drop(row, len(row.blocks) - 1, length)
        self._blocks.set_length(block, Klass.BE, room)
        self._rows.shorten(row, row.resident - (length - room))
        if room == 0:
            self._blocks.disown(self._rows.pop_block(row), Klass.BE)

    # -- counting --------------------------------------------------------------------------------

    def count_lost_row(self, row: Row) -> None:
        """Count the loss of all the row's KV; the row is about to be closed, without copies."""
        if row.blocks:
            self._count_loss(row, len(row.blocks), row.resident)

    def _count_loss(self, row: Row, num_blocks: int, num_tokens: int) -> None:
        """Count a loss before it happens; a row that is hurt already is not preempted again."""
        if not self._rows.is_hurt(row.index):
            self._counters.preemptions[row.klass] += 1
        self._counters.preempted_blocks += num_blocks
        self._counters.preempted_tokens[row.klass] += num_tokens
