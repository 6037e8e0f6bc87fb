"""Host copies of BE blocks: which are worth making, where they lie, and the log of copies to make.

The log belongs to the plan that is being made. A worker runs its entries in order before it writes
anything, so one iteration can save a block, give it to another row, and write to it.
"""

from __future__ import annotations

from collections.abc import Iterable

from bros.kv.blocks import Blocks
from bros.kv.counters import KvCosts, KvCounters
from bros.kv.host import HostCopy, HostSlots
from bros.kv.layout import CopyKind, Klass
from bros.kv.row import Row
from bros.kv.table import BlockTable


class CheckpointPlanner:
    """The host copies of one table's rows, and the copy log of the plan."""

    def __init__(
        self, table: BlockTable, blocks: Blocks, costs: KvCosts, counters: KvCounters
    ) -> None:
        self._log = table.copies
        self._size = table.geometry.block_size
        self._blocks = blocks
        self._costs = costs
        self._counters = counters
        self._host = HostSlots(table.geometry.host_slots)
        self._rows: dict[int, Row] = {}  # rows that have copies
        self.num_logged = 0
        self._num_held = 0

    @property
    def num_used(self) -> int:
        """Host slots in use."""
        return self._host.num_used

    @property
    def room(self) -> int:
        """Copies that the plan may still make."""
        return len(self._log) - self.num_logged - self._num_held

    def begin_plan(self) -> None:
        """Start a new log; the one before has been run."""
        self.num_logged = 0

    def hold(self, copy: HostCopy | None = None) -> bool:
        """Hold a log entry, and `copy`, for `restore` or `move`: no save can take them.

        Return False if the log is full.
        """
        if not self.room:
            return False
        self._num_held = 1
        self._host.pin(copy.slot if copy else None)
        return True

    def let_go(self) -> None:
        """Release what `hold` held."""
        self._num_held = 0
        self._host.pin(None)

    def _write(self, kind: CopyKind, source: int, target: int, slots: int) -> None:
        self._log[self.num_logged] = (kind, source, target, slots)
        self.num_logged += 1

    def save_or_drop(self, row: Row, index: int, length: int) -> None:
        """Save block `index` of the row, which loses its `length` tokens, if saving pays."""
        if row.klass is Klass.RT or self.is_saved(row, index, length):
            return
        if not (self._costs.worth_saving(length) and self.save(row, index, length)):
            self._counters.dropped_tokens += length - self.num_valid(row, index)

    def is_saved(self, row: Row, index: int, length: int) -> bool:
        """Whether a copy has the first `length` tokens of the block."""
        return self.num_valid(row, index) >= length

    def num_valid(self, row: Row, index: int) -> int:
        """Return how many tokens of the block a copy has."""
        copy = row.copies.get(index)
        return copy.valid if copy else 0

    def save(self, row: Row, index: int, length: int, *, evict: bool = True) -> bool:
        """Log a copy of the block to the host. Return False if the log or the host is full.

        With `evict`, the oldest copy on the host gives its slot.
        """
        if not self.room:
            return False
        copy = row.copies.get(index) or self._place(row, index, evict)
        if copy is None:
            return False
        copy.valid = length
        block = row.blocks[index]
        self._write(CopyKind.SAVE, block, copy.slot, length)
        self._blocks.note_copy(block, copy.slot, length)
        self._counters.saved_blocks += 1
        return True

    def save_ahead(self, rows: Iterable[Row], enough: int, max_copies: int) -> None:
        """Save full tail blocks of the rows until `enough` are saved, with at most `max_copies`."""
        for row in rows:
            full = min(row.resident, row.written) // self._size
            for index in range(full - 1, -1, -1):
                if enough <= 0 or max_copies <= 0:
                    return
                if not self.is_saved(row, index, self._size):
                    if not self._blocks.becomes_free(row.blocks[index]):
                        break
                    if not self.save(row, index, self._size, evict=False):
                        return
                    max_copies -= 1
                enough -= 1

    def _place(self, row: Row, index: int, evict: bool) -> HostCopy | None:
        """Return a new, empty copy of the block, if the host has a slot for it."""
        claimed = self._host.claim(row.index, index, evict)
        if claimed is None:
            return None
        slot, loser = claimed
        if loser is not None:
            self._forget(self._rows[loser[0]], loser[1])
        self._rows[row.index] = row
        row.copies[index] = copy = HostCopy(slot, 0)
        return copy

    def _forget(self, loser: Row, index: int) -> None:
        """Another copy has this one's slot now."""
        lost = loser.copies.pop(index)
        if index < len(loser.blocks):
            self._blocks.note_copy(loser.blocks[index], None, 0)
        else:
            self._counters.dropped_tokens += lost.valid

    def restore(self, row: Row, index: int, valid: int) -> None:
        """Log a copy from the host back into the row's block; `hold` first."""
        self.let_go()
        copy, block = row.copies[index], row.blocks[index]
        self._write(CopyKind.RESTORE, copy.slot, block, valid)
        self._blocks.note_copy(block, copy.slot, copy.valid)
        self._counters.restored_blocks += 1

    def move(self, source: int, target: int, length: int) -> None:
        """Log a copy within the pool; `hold` first."""
        self.let_go()
        self._write(CopyKind.MOVE, source, target, length)
        self._counters.moved_blocks += 1

    def discard(self, row: Row, index: int) -> None:
        """Free one copy, if there is one."""
        copy = row.copies.pop(index, None)
        if copy is not None:
            self._host.release(copy.slot)

    def discard_all(self, row: Row) -> None:
        """Free all copies of a row that ends."""
        for index in list(row.copies):
            self.discard(row, index)
        self._rows.pop(row.index, None)
