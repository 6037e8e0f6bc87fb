"""What must hold for a block table at any time; for tests and for debugging."""

from __future__ import annotations

from collections import Counter

from bros.kv.allocator import Allocator
from bros.kv.layout import Klass
from bros.kv.row import Row


def check(allocator: Allocator) -> None:
    """Raise AssertionError unless these invariants hold.

    1. Both classes fit into a block. 2. Rows and blocks agree on who owns what. 3. Every block is
    either free or held. 4. RT never loses KV.
    """
    table, blocks, rows = allocator.table, allocator._blocks, allocator._rows
    size = allocator.block_size
    _require(bool((table.rt_len + table.be_len <= size).all()), "a block is overfull")
    free = list(blocks.free)
    held = Counter(block for row in rows for block in row.blocks)
    _require(len(set(free)) == len(free), "a block is free twice")
    _require(not held.keys() & set(free), "a block is free and held")
    _require(len(held) + len(free) == allocator.num_blocks, "a block leaked")
    for block in free:
        unowned = blocks.owner(block, Klass.RT) is None and blocks.owner(block, Klass.BE) is None
        _require(unowned and blocks.readers(block) == 0, "free but used")
    for block, count in held.items():
        if block in blocks.index:
            _require(blocks.readers(block) == count, "readers and rows differ")
        else:
            owners = sum(blocks.owner(block, klass) is not None for klass in Klass)
            _require(owners == count, "owners and rows differ")
    for row in rows:
        _check_row(allocator, row)


def _check_row(allocator: Allocator, row: Row) -> None:
    table, blocks, size = allocator.table, allocator._blocks, allocator.block_size
    count = len(row.blocks)
    _require(table.blocks[row.index, :count].tolist() == row.blocks, "row lists differ")
    _require(int(table.resident_len[row.index]) == row.resident, "resident tokens differ")
    _require(count == allocator.blocks_for(row.resident), "blocks and tokens differ")
    for index, block in enumerate(row.blocks):
        length = min(size, row.resident - index * size)
        if block in blocks.index:
            _require(length == size, "a partial block is published")
        else:
            _require(blocks.owner(block, row.klass) == row.index, "block and row disagree")
            _require(blocks.length(block, row.klass) == length, "slots and tokens differ")
    if row.klass is Klass.RT:
        _require(row.resident == int(table.num_tokens[row.index]), "RT lost KV")
        _require(not row.copies, "RT has checkpoints")


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise AssertionError(what)
