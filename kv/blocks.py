"""Physical blocks: who owns each, how many read it, which are free.

An owned block belongs to one RT row, to one BE row, or to one of each. A published block is full
and has readers instead of an owner; it is cached when the last reader leaves.
"""

from __future__ import annotations

from bros.kv.counters import KvCounters
from bros.kv.free_blocks import FreeBlocks
from bros.kv.layout import NO_ROW, Klass
from bros.kv.prefix import PrefixIndex
from bros.kv.table import BlockTable


class Blocks:
    """All blocks of one table; the one writer of the table's block columns."""

    def __init__(self, table: BlockTable, free: FreeBlocks, counters: KvCounters) -> None:
        self._table = table
        self._size = table.geometry.block_size
        # Single numbers are read and written twice as fast through a memoryview.
        self._row_of = (table.rt_row.data, table.be_row.data)  # by class
        self._len_of = (table.rt_len.data, table.be_len.data)
        self._refs = table.refs.data
        self._writer = [
            Klass.RT
        ] * table.geometry.num_blocks  # from whose side the content was written
        self._counters = counters
        self.free = free
        self.index = PrefixIndex()

    def owner(self, block: int, klass: Klass) -> int | None:
        """Return the row of this class that owns the block, if there is one."""
        row: int = self._row_of[klass][block]
        return None if row == NO_ROW else row

    def length(self, block: int, klass: Klass) -> int:
        """Return how many slots the owner of this class uses."""
        length: int = self._len_of[klass][block]
        return length

    def readers(self, block: int) -> int:
        """Return how many rows read a published block; 0 if it is owned or cached."""
        readers: int = self._refs[block]
        return readers

    def room(self, block: int, klass: Klass) -> int:
        """Return how many slots the owner of this class can have beside the other owner."""
        return self._size - self.length(block, klass.other)

    def pop_free(self) -> int:
        """Remove and return a free block; it has neither content nor owner any more."""
        block, cached = self.free.pop()
        if cached:
            self.index.withdraw(block)
            self._counters.evicted_blocks += 1
        return block

    def own(self, block: int, klass: Klass, row: int, length: int = 0) -> None:
        """Give one side of the block to a row."""
        if self.owner(block, klass.other) is not None:
            self._counters.shared_blocks += 1
        self._row_of[klass][block] = row
        self._len_of[klass][block] = length
        self._writer[block] = klass

    def set_length(self, block: int, klass: Klass, length: int) -> None:
        """The owner of this class uses `length` slots."""
        self._len_of[klass][block] = length

    def set_length_if_room(self, block: int, klass: Klass, length: int) -> bool:
        """The same, unless the other owner uses some of these slots; then return False."""
        if length + self._len_of[1 - klass][block] > self._size:
            return False
        self._len_of[klass][block] = length
        return True

    def disown(self, block: int, klass: Klass) -> None:
        """Remove the owner of this class; the block is free if there is no other one."""
        self._clear(block, klass)
        if self.owner(block, klass.other) is None:
            self.free.put(block)

    def _clear(self, block: int, klass: Klass) -> None:
        self._row_of[klass][block] = NO_ROW
        self._len_of[klass][block] = 0
        if klass is Klass.BE:
            self.note_copy(block, None, 0)

    def note_copy(self, block: int, slot: int | None, valid: int) -> None:
        """Show monitors where the block's host copy is, and how many tokens of it are valid."""
        self._table.host_slot[block] = NO_ROW if slot is None else slot
        self._table.saved[block] = valid

    # -- published blocks ------------------------------------------------------------------------

    def publish(self, block: int, klass: Klass, digest: bytes) -> None:
        """Let others read a row's full block, unless one with the same content is published.

        The owner becomes the first reader.
        """
        if self.index.find(digest) is None:
            self._row_of[klass][block] = NO_ROW
            self._len_of[klass][block] = 0
            self._refs[block] = 1
            self._writer[block] = klass
            self.index.publish(block, digest, klass)

    def read(self, block: int, klass: Klass) -> None:
        """Add a reader to a published block."""
        if self._refs[block] == 0:
            self.free.revive(block, self.index.klass_of(block))
        self._refs[block] += 1
        self.index.used_by(block, klass)

    def release(self, block: int, klass: Klass) -> None:
        """Remove a row of this class that owns or reads the block."""
        if block not in self.index:
            self.disown(block, klass)
            return
        self._refs[block] -= 1
        if self.readers(block) == 0:
            self.note_copy(block, None, 0)
            self.free.put_cached(block, self.index.klass_of(block))

    def unpublish(self, block: int, row: int) -> None:
        """Make the only reader, a BE row, the owner again: the content is about to change."""
        if block in self.index:
            self.index.withdraw(block)
            self._refs[block] = 0
            self._row_of[Klass.BE][block] = row
            self._len_of[Klass.BE][block] = self._size

    def becomes_free(self, block: int, leaving: int = 1) -> bool:
        """Whether the block becomes free if `leaving` of its owners or readers leave."""
        if block in self.index:
            return self.readers(block) == leaving
        return sum(self.owner(block, klass) is not None for klass in Klass) == leaving

    def is_rt_prefix(self, block: int) -> bool:
        """Whether the block, once it is free, is a cached prefix of RT."""
        return block in self.index and self.index.klass_of(block) is Klass.RT

    def joinable(self, block: int) -> bool:
        """Whether only a BE row has the block, so that RT can overwrite its newest tokens.

        BE must have written it: only then do the newest tokens lie on the left.
        """
        return self._writer[block] is Klass.BE and self.becomes_free(block)
