"""The rows of a block table: which are open, how much of each is resident, which are planned.

`RowTable` is the one writer of a row's state and of the table's row columns, `klass`,
`num_tokens`, `resident_len` and `blocks`.
"""

from __future__ import annotations

from collections.abc import Iterator

from bros.kv.layout import Klass
from bros.kv.prefix import TokenChain
from bros.kv.row import Row
from bros.kv.table import BlockTable


class NoFreeRow(RuntimeError):
    """All rows of the table are in use."""


class RowTable:
    """The open rows by their index, and the set of those that the current plan computes."""

    def __init__(self, table: BlockTable) -> None:
        # Single numbers are read and written twice as fast through a memoryview.
        self._klass = table.klass.data
        self._num_tokens = table.num_tokens.data
        self._resident_len = table.resident_len.data
        self._blocks = table.blocks.data
        self._max_rows = table.geometry.max_rows
        self._free = list(range(self._max_rows - 1, -1, -1))
        self._rows: dict[int, Row] = {}
        self._planned: set[int] = set()

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows.values())

    def __getitem__(self, index: int) -> Row:
        return self._rows[index]

    @property
    def num_free(self) -> int:
        """Rows that can be opened."""
        return len(self._free)

    def open(self, klass: Klass, chain: TokenChain) -> Row:
        """Return a new, empty row. Raise NoFreeRow if all are in use."""
        if not self._free:
            raise NoFreeRow(f"all {self._max_rows} rows are in use")
        index = self._free.pop()
        row = self._rows[index] = Row(index, klass, chain)
        self._klass[index] = klass
        self._num_tokens[index] = self._resident_len[index] = 0
        return row

    def close(self, row: Row) -> None:
        """Free the row; its blocks and copies must have been given back."""
        del self._rows[row.index]
        self._num_tokens[row.index] = self._resident_len[row.index] = 0
        self._free.append(row.index)

    # -- tokens ----------------------------------------------------------------------------------

    def lengthen(self, row: Row, resident: int) -> None:
        """The first `resident` tokens of the row are resident: as many as before, or more."""
        row.resident = resident
        self._resident_len[row.index] = resident
        if resident > self._num_tokens[row.index]:
            self._num_tokens[row.index] = resident

    def shorten(self, row: Row, resident: int) -> None:
        """The row has lost all tokens but the first `resident`."""
        row.resident = resident
        row.written = min(row.written, resident)
        self._resident_len[row.index] = resident

    def is_hurt(self, index: int) -> bool:
        """Whether the row has lost tokens that it had."""
        hurt: bool = self._resident_len[index] < self._num_tokens[index]
        return hurt

    def push_block(self, row: Row, block: int) -> None:
        """Add a block behind the row's last one."""
        self._blocks[row.index, len(row.blocks)] = block
        row.blocks.append(block)

    def pop_block(self, row: Row) -> int:
        """Remove the row's last block and return it."""
        return row.blocks.pop()

    # -- the plan --------------------------------------------------------------------------------

    def begin_plan(self) -> None:
        """The last plan has been run: its rows are written, and no row is planned."""
        for index in self._planned & self._rows.keys():
            self._rows[index].written = self._rows[index].resident
        self._planned.clear()

    def mark_planned(self, row: Row) -> None:
        """The plan computes tokens of the row: nobody may take its blocks until it has run."""
        self._planned.add(row.index)

    def is_planned(self, index: int) -> bool:
        """Whether the plan computes tokens of the row."""
        return index in self._planned
