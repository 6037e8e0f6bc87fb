"""Where a row's next block comes from, and who loses it.

RT: a free block above the reserve, the left side of a BE tail, the reserve, a BE tail that is
preempted. BE: a free block above the reserve, the right side of an RT tail. Taking KV from a BE row
means taking its tail, block by block or, where an RT tail grows into it, token by token; what is
lost is saved to the host if that pays, else it is computed again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bros.kv.blocks import Blocks
from bros.kv.checkpoints import CheckpointPlanner
from bros.kv.counters import KvCounters
from bros.kv.layout import Klass
from bros.kv.row import Row
from bros.kv.table import BlockTable

Losses = list[tuple[Row, int]]  # rows, and how many tail blocks each loses


@dataclass(frozen=True)
class KvOptions:
    """How the pool is shared. `rt_reserve` and `rt_cached` are in blocks."""

    rt_reserve: int = 0  # free blocks that BE leaves
    rt_cached: int = 0  # cached prefixes of RT that BE does not evict
    share: bool = True  # RT and BE tails in one block
    prefix: bool = True  # full blocks are found again by their content
    keep_copies: bool = True  # a host copy stays valid after it was restored


class BlockReclaimer:
    """Finds blocks for `rows`; takes none from those in `planned`, the rows of the plan."""

    def __init__(
        self,
        table: BlockTable,
        options: KvOptions,
        blocks: Blocks,
        checkpoints: CheckpointPlanner,
        counters: KvCounters,
        rows: Mapping[int, Row],
        planned: set[int],
    ) -> None:
        self._num_tokens = table.num_tokens.data
        self._resident_len = table.resident_len.data
        self._size = table.geometry.block_size
        self._options = options
        self._blocks = blocks
        self._checkpoints = checkpoints
        self._counters = counters
        self._rows = rows
        self._planned = planned

    def obtain(
        self, klass: Klass, count: int, last: int, victims: Sequence[int]
    ) -> list[int] | None:
        """`count` blocks, of which the last needs `last` slots only; None, and no change, if not.

        None of them has an owner of this class; the last may have one of the other.
        """
        may_share = self._options.share and last < self._size
        free = self._blocks.free
        if count <= min(free.num_spare, free.available(klass)):
            return [self._blocks.take() for _ in range(count)]
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
        blocks = [self._blocks.take() for _ in range(count - (shared is not None))]
        return blocks if shared is None else [*blocks, shared]

    def _half_empty(self, klass: Klass, slots: int) -> int | None:
        """The emptiest tail block of the other class with `slots` slots for this one."""
        best, most = None, slots - 1
        for row in self._rows.values():
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
        """How many tail blocks each victim must lose for `wanted` to be available, if it can be."""
        rows = [self._rows[index] for index in victims if index not in self._planned]
        losses: Losses = []
        more = more_rt = 0
        for row in rows:
            count = 0
            for depth, block in enumerate(reversed(row.blocks), 1):
                if self._blocks.is_left(block):
                    count, more = depth, more + 1
                    more_rt += self._blocks.is_rt_prefix(block)
                    if self._blocks.free.available(taker, more, more_rt) >= wanted:
                        return [*losses, (row, count)]
            if count:
                losses.append((row, count))
        return self._joint_losses(taker, rows, wanted)

    def _joint_losses(self, taker: Klass, rows: list[Row], wanted: int) -> Losses | None:
        """The same, from rows that lose everything: what they share with each other counts too."""
        count = self.num_needed(rows, taker, wanted)
        return None if count is None else [(row, len(row.blocks)) for row in rows[:count]]

    def num_needed(self, rows: Iterable[Row], taker: Klass, wanted: int) -> int | None:
        """How many of the rows must lose everything for `wanted` blocks; None: all are too few."""
        if self._blocks.free.available(taker) >= wanted:
            return 0
        leaving: Counter[int] = Counter()
        more = more_rt = 0
        for count, row in enumerate(rows, 1):
            for block in row.blocks:
                leaving[block] += 1
                if self._blocks.is_left(block, leaving[block]):
                    more += 1
                    more_rt += self._blocks.is_rt_prefix(block)
            if self._blocks.free.available(taker, more, more_rt) >= wanted:
                return count
        return None

    def _join_last(self, losses: Losses) -> int | None:
        """Instead of the last block to be lost whole, the same block to share, if it can be."""
        row, num_blocks = losses[-1]
        block = row.blocks[-num_blocks]
        if not self._blocks.joinable(block):
            return None
        losses[-1] = (row, num_blocks - 1)
        self._blocks.reclaim(block, row.index)
        return block

    def lose_tail(self, row: Row, num_blocks: int) -> None:
        """Take the row's last blocks; what only it has is saved to the host or dropped."""
        self._note_preemption(row, num_blocks)
        for _ in range(num_blocks):
            index = len(row.blocks) - 1
            block, length = row.blocks[-1], row.resident - index * self._size
            if self._blocks.readers(block) <= 1:
                self._checkpoints.keep(row, index, length)
            row.blocks.pop()
            self._blocks.release(block, row.klass)
            row.resident -= length
            self._counters.preempted_blocks += 1
            self._counters.preempted_tokens[row.klass] += length
        self.note_resident(row)

    def evict_be_overlap(self, block: int, room: int) -> None:
        """RT needs all but `room` slots of the block: its BE owner loses its newest tokens."""
        owner = self._blocks.owner(block, Klass.BE)
        if owner is None:
            return
        row, length = self._rows[owner], self._blocks.length(block, Klass.BE)
        if length <= room:
            return
        self._note_preemption(row, 1)
        self._checkpoints.keep(row, len(row.blocks) - 1, length)
        self._blocks.set_length(block, Klass.BE, room)
        row.resident -= length - room
        self._counters.preempted_tokens[Klass.BE] += length - room
        if room == 0:
            row.blocks.pop()
            self._blocks.disown(block, Klass.BE)
        self.note_resident(row)

    def _note_preemption(self, row: Row, num_blocks: int) -> None:
        """A row that has lost tokens already is not counted again until it has all of them."""
        if num_blocks and row.resident == self.num_known(row.index):
            self._counters.preemptions[row.klass] += 1

    def num_known(self, row: int) -> int:
        """Tokens of the row that are resident, or were."""
        known: int = self._num_tokens[row]
        return known

    def note_resident(self, row: Row) -> None:
        """Publish how much of the row is resident; what it has lost is not written any more."""
        resident = row.resident
        row.written = min(row.written, resident)
        self._resident_len[row.index] = resident
        if resident > self._num_tokens[row.index]:
            self._num_tokens[row.index] = resident
