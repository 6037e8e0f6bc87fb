"""KV that a row need not compute: published blocks with its prefix, host copies of what it lost."""

from __future__ import annotations

from collections.abc import Sequence

from bros.kv.blocks import Blocks
from bros.kv.checkpoints import CheckpointPlanner
from bros.kv.counters import KvCounters
from bros.kv.layout import Klass
from bros.kv.prefix import TokenChain
from bros.kv.reclaim import BlockReclaimer, KvOptions
from bros.kv.row import Row
from bros.kv.rows import RowTable
from bros.kv.tails import RowTails


class KvReuse:
    """Finds KV that exists already, and continues rows with it."""

    def __init__(
        self,
        block_size: int,
        options: KvOptions,
        rows: RowTable,
        blocks: Blocks,
        tails: RowTails,
        checkpoints: CheckpointPlanner,
        reclaimer: BlockReclaimer,
        counters: KvCounters,
    ) -> None:
        self._size = block_size
        self._options = options
        self._rows = rows
        self._blocks = blocks
        self._tails = tails
        self._checkpoints = checkpoints
        self._reclaimer = reclaimer
        self._counters = counters

    def num_published(self, chain: TokenChain, first: int = 0, readers: int = 0) -> int:
        """Return how many blocks of these tokens, from block `first` on, are published.

        Counts until the first one that is not, or that fewer than `readers` rows read.
        """
        index = first
        while self._find(chain, index, readers) is not None:
            index += 1
        return index - first

    def continue_row(self, row: Row, victims: Sequence[int]) -> None:
        """Add published blocks and host copies to the row while there are any; see `reuse`."""
        while self._read_published(row) or self._restore(row, victims):
            pass

    def _find(self, chain: TokenChain, index: int, readers: int = 0) -> int | None:
        """Return the published block with block `index` of these tokens, if so many rows read it.

        The block with the last token is never looked up: that token must be computed.
        """
        if not self._options.prefix or (index + 1) * self._size >= len(chain):
            return None
        block = self._blocks.index.find(chain.digest(index))
        if block is None or (readers and self._blocks.readers(block) < readers):
            return None
        return block

    def _read_published(self, row: Row) -> bool:
        """Add the published block that continues the row, if there is one."""
        if row.resident % self._size:
            return False
        block = self._find(row.chain, len(row.blocks))
        if block is None:
            return False
        if not self._blocks.readers(block) and not self._blocks.free.available(row.klass):
            return False  # BE: the free blocks are RT's reserve
        self._blocks.read(block, row.klass)
        self._rows.push_block(row, block)
        self._rows.lengthen(row, row.resident + self._size)
        self._counters.prefix_hit_tokens[row.klass] += self._size
        return True

    def _restore(self, row: Row, victims: Sequence[int]) -> bool:
        """Restore the host copy that continues the row, if there is one and a block for it."""
        index, resident = divmod(row.resident, self._size)
        known = len(row.chain) - 1 - index * self._size
        valid = min(self._checkpoints.num_valid(row, index), known)
        if valid <= resident or not self._checkpoints.hold(row.copies[index]):
            return False
        if not resident or valid > self._blocks.room(row.blocks[-1], Klass.BE):
            blocks = self._reclaimer.obtain(row.klass, 1, valid, victims)
            if blocks is None:
                self._checkpoints.let_go()
                return False
            if resident:
                self._blocks.disown(self._rows.pop_block(row), row.klass)
            self._tails.add(row, blocks[0])
        self._checkpoints.restore(row, index, valid)
        self._rows.lengthen(row, row.resident + valid - resident)
        self._tails.fill(row, index, valid)
        if not self._options.keep_copies:
            self._checkpoints.discard(row, index)
        return True
