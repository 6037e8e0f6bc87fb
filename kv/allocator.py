"""Gives KV blocks to sequence rows: the one writer of a block table.

A row's resident tokens are always the prefix `[0, resident_len)` of its sequence, so taking KV
away from it means taking tail blocks, and one integer says what is left. Taken blocks are
dropped: their tokens are computed again when the row grows back.
"""

from __future__ import annotations

from bros.kv.layout import NO_ROW, Column, Klass
from bros.kv.table import BlockTable


class NoFreeRow(RuntimeError):
    """All rows of the table are taken."""


class Allocator:
    """Blocks and rows of one table. RT may use every block, BE leaves `rt_reserve` free."""

    def __init__(self, table: BlockTable, rt_reserve: int = 0) -> None:
        geometry = table.geometry
        self.table = table
        self.block_size = geometry.block_size
        self.num_blocks = geometry.num_blocks
        self._rt_reserve = rt_reserve
        self._free = list(range(geometry.num_blocks - 1, -1, -1))
        self._free_rows = list(range(geometry.max_rows - 1, -1, -1))
        self._held: dict[int, list[int]] = {}  # row -> its blocks, in order

    @property
    def num_free(self) -> int:
        """Blocks without an owner."""
        return len(self._free)

    @property
    def num_rows(self) -> int:
        """Rows in use."""
        return len(self._held)

    def spare(self, klass: Klass) -> int:
        """Free blocks that a row of this class may take; negative if BE has to shrink."""
        return len(self._free) - (self._rt_reserve if klass is Klass.BE else 0)

    def blocks_for(self, num_tokens: int) -> int:
        """Blocks that hold `num_tokens` tokens of one sequence."""
        return -(-num_tokens // self.block_size)

    def held(self, row: int) -> int:
        """Blocks that the row holds."""
        return len(self._held[row])

    def resident(self, row: int) -> int:
        """Tokens of the row whose KV is in the pool, or will be after the plan in flight."""
        return int(self.table.resident_len[row])

    def open_row(self, klass: Klass) -> int:
        """A new, empty row. NoFreeRow if the table is full."""
        if not self._free_rows:
            raise NoFreeRow(f"all {self.table.geometry.max_rows} rows are in use")
        row = self._free_rows.pop()
        self._held[row] = []
        self.table.klass[row] = klass
        self.table.num_tokens[row] = self.table.resident_len[row] = 0
        return row

    def close_row(self, row: int) -> None:
        """Free the row and all its blocks."""
        self.drop_tail(row, self.held(row))
        del self._held[row]
        self.table.num_tokens[row] = 0
        self._free_rows.append(row)

    def missing(self, row: int, num_tokens: int) -> int:
        """Blocks that must be taken from others before the row can hold `num_tokens` tokens."""
        needed = self.blocks_for(num_tokens) - self.held(row)
        return max(0, needed - self.spare(self._klass(row))) if needed > 0 else 0

    def grow(self, row: int, num_tokens: int) -> bool:
        """Make room for the first `num_tokens` tokens of the row; False, and no change, if not.

        The added tokens count as resident: the caller must compute them in its next plan.
        """
        if self.missing(row, num_tokens):
            return False
        blocks, table = self._held[row], self.table
        first = self.resident(row) // self.block_size
        owner, length = self._columns(row)
        while len(blocks) < self.blocks_for(num_tokens):
            block = self._free.pop()
            owner[block] = row
            table.blocks[row, len(blocks)] = block
            blocks.append(block)
        for index in range(first, len(blocks)):
            length[blocks[index]] = min(self.block_size, num_tokens - index * self.block_size)
        table.resident_len[row] = num_tokens
        table.num_tokens[row] = max(num_tokens, int(table.num_tokens[row]))
        return True

    def drop_tail(self, row: int, num_blocks: int) -> int:
        """Take the last `num_blocks` blocks from a row; returns the resident tokens it lost."""
        if num_blocks == 0:
            return 0
        blocks = self._held[row]
        taken = blocks[len(blocks) - num_blocks :]
        del blocks[len(blocks) - num_blocks :]
        owner, length = self._columns(row)
        for block in taken:
            owner[block] = NO_ROW
            length[block] = 0
        self._free.extend(reversed(taken))
        before = self.resident(row)
        self.table.resident_len[row] = min(before, len(blocks) * self.block_size)
        return before - self.resident(row)

    def _klass(self, row: int) -> Klass:
        return Klass(int(self.table.klass[row]))

    def _columns(self, row: int) -> tuple[Column, Column]:
        """The owner and length columns that blocks of this row's class use."""
        table = self.table
        if self._klass(row) is Klass.RT:
            return table.rt_row, table.rt_len
        return table.be_row, table.be_len

    def check(self) -> None:
        """Raise AssertionError unless the invariants of the table hold (docs/design/kv.md)."""
        table, size = self.table, self.block_size
        owned = [block for blocks in self._held.values() for block in blocks]
        _require(len(set(owned)) == len(owned), "a block has two owners")
        _require(sorted(owned + self._free) == list(range(self.num_blocks)), "a block leaked")
        _require(bool((table.rt_len + table.be_len <= size).all()), "a block is overfull")
        for block in self._free:
            empty = table.rt_row[block] == NO_ROW and table.be_row[block] == NO_ROW
            _require(empty and table.rt_len[block] + table.be_len[block] == 0, "free but owned")
        for row, blocks in self._held.items():
            owner, length = self._columns(row)
            resident = self.resident(row)
            _require(table.blocks[row, : len(blocks)].tolist() == blocks, "row lists differ")
            _require(all(owner[block] == row for block in blocks), "block and row disagree")
            _require(int(length[blocks].sum()) == resident, "slots and tokens differ")
            _require(len(blocks) == self.blocks_for(resident), "blocks and tokens differ")
            if self._klass(row) is Klass.RT:
                _require(resident == int(table.num_tokens[row]), "RT lost KV")


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise AssertionError(what)
