"""The usage of blocks that is shown is what the allocator did with them."""

from pathlib import Path

import numpy as np
import pytest

from bros.kv import Allocator, BlockState, BlockTable, Klass, KvOptions, TableGeometry, TokenChain
from bros.kv.usage import MAX_CELLS, downsample

GEOMETRY = TableGeometry(
    num_blocks=8, block_size=4, max_rows=4, max_len=32, host_slots=4, max_copies=8
)


@pytest.fixture
def allocator(tmp_path: Path) -> Allocator:
    return Allocator(BlockTable(tmp_path / "table", GEOMETRY), KvOptions(rt_reserve=0))


def grow(allocator: Allocator, klass: Klass, tokens: list[int], num_tokens: int) -> int:
    row = allocator.open_row(klass, TokenChain(tokens, GEOMETRY.block_size))
    allocator.begin_plan()
    assert allocator.grow(row, num_tokens)
    return row


def test_an_empty_table_is_free(allocator: Allocator) -> None:
    usage = allocator.usage()
    assert usage.cells == "." * 8
    assert usage.counts[BlockState.FREE] == 8


def test_each_use_of_a_block_is_seen(allocator: Allocator) -> None:
    grow(allocator, Klass.RT, list(range(10)), 10)
    be = grow(allocator, Klass.BE, list(range(50, 60)), 8)
    allocator.begin_plan()
    allocator.save_ahead([be], 1, 1)
    usage = allocator.usage()
    assert usage.counts[BlockState.RT] == 3
    assert (usage.counts[BlockState.BE], usage.counts[BlockState.SAVED]) == (1, 1)
    allocator.close_row(be)
    assert allocator.usage().counts[BlockState.CACHED] == 2
    assert sum(allocator.usage().counts.values()) == 8


def test_a_prefix_that_both_classes_read_is_shared(allocator: Allocator) -> None:
    tokens = list(range(10))
    grow(allocator, Klass.BE, tokens, 8)
    row = allocator.open_row(Klass.RT, TokenChain(tokens, GEOMETRY.block_size))
    allocator.begin_plan()
    assert allocator.reuse(row) == 8
    assert allocator.usage().cells.count("X") == 2


def test_a_cell_has_the_state_of_most_of_its_blocks() -> None:
    states = np.full(3 * MAX_CELLS - 2, BlockState.FREE, dtype=np.int8)
    states[:2] = BlockState.RT
    states[3] = BlockState.BE
    cells = downsample(states, MAX_CELLS)
    assert len(cells) == MAX_CELLS
    assert cells[:2].tolist() == [BlockState.RT, BlockState.FREE]
