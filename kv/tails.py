"""The last blocks of rows: what fits into them, and how they are added, filled and moved.

A row's last block is partial most of the time, and may be shared with a row of the other class.
"""

from __future__ import annotations

from bros.kv.blocks import Blocks
from bros.kv.checkpoints import CheckpointPlanner
from bros.kv.layout import Klass
from bros.kv.reclaim import BlockReclaimer
from bros.kv.row import Row
from bros.kv.rows import RowTable


class RowTails:
    """The tails of one table's rows. With `publish`, a block that is filled is published."""

    def __init__(
        self,
        block_size: int,
        rows: RowTable,
        blocks: Blocks,
        checkpoints: CheckpointPlanner,
        reclaimer: BlockReclaimer,
        *,
        publish: bool,
    ) -> None:
        self._size = block_size
        self._rows = rows
        self._blocks = blocks
        self._checkpoints = checkpoints
        self._reclaimer = reclaimer
        self._publish = publish

    def has_room(self, row: Row, num_tokens: int) -> bool:
        """Whether the last block of the row has free slots for its first `num_tokens` tokens."""
        last = num_tokens - (len(row.blocks) - 1) * self._size
        if last > self._size or row.resident % self._size == 0:
            return False
        return last <= self._blocks.room(row.blocks[-1], row.klass)

    def must_move(self, row: Row, num_tokens: int) -> bool:
        """Whether RT has taken the next slots of the last block, so that a BE row must leave it."""
        return row.klass is Klass.BE and self._collides(row, num_tokens)

    def meets_planned(self, row: Row, num_tokens: int) -> bool:
        """Whether an RT tail would grow into the tail of a BE row that the plan computes."""
        if row.klass is Klass.BE or not self._collides(row, num_tokens):
            return False
        other = self._blocks.owner(row.blocks[-1], Klass.BE)
        return other is not None and self._rows.is_planned(other)

    def _collides(self, row: Row, num_tokens: int) -> bool:
        """Whether the last block, if partial, lacks slots for its part of `num_tokens` tokens."""
        if row.resident % self._size == 0:
            return False
        length = min(self._size, num_tokens - (len(row.blocks) - 1) * self._size)
        return length > self._blocks.room(row.blocks[-1], row.klass)

    def add(self, row: Row, block: int) -> None:
        """Give the row one more block, of which it uses no slot yet."""
        self._blocks.own(block, row.klass, row.index)
        self._rows.push_block(row, block)

    def move(self, row: Row, target: int) -> None:
        """Copy the partial last block to `target`; `CheckpointPlanner.hold` first."""
        source, index = self._rows.pop_block(row), len(row.blocks)
        length = row.resident - index * self._size
        self._checkpoints.move(source, target, length)
        self._blocks.disown(source, row.klass)
        self.add(row, target)
        self._blocks.set_length(target, row.klass, length)

    def fill(self, row: Row, index: int, length: int) -> None:
        """Use `length` slots of block `index`. A BE row gives way; a full block is published."""
        block = row.blocks[index]
        if row.klass is Klass.RT:
            self._reclaimer.evict_be_overlap(block, self._size - length)
        self._blocks.set_length(block, row.klass, length)
        if length == self._size and self._publish:
            self._blocks.publish(block, row.klass, row.chain.digest(index))
