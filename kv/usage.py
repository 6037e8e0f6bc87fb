"""What the blocks of a table are used for, as counts and as a map of letters."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from bros.kv.layout import NO_ROW, Klass, TableArrays, TableGeometry

MAX_CELLS = 512
LETTERS = ".cRBSX"  # of a cell, by state


class BlockState(IntEnum):
    """What a block is used for."""

    FREE = 0
    CACHED = 1  # no row holds it, but its content may serve a prefix again
    RT = 2
    BE = 3
    SAVED = 4  # BE, and a host copy has all of it
    SHARED = 5  # by both classes: two tails in one block, or a prefix that both read


@dataclass(frozen=True)
class BlockUsage:
    """How many blocks are in each state, and all blocks in order as cells of one letter.

    Every cell stands for equally many neighbouring blocks; there are at most `MAX_CELLS`.
    """

    counts: dict[BlockState, int]
    cells: str


def block_usage(table: TableArrays, geometry: TableGeometry, cached: Iterable[int]) -> BlockUsage:
    """Return the usage of a table's blocks; `cached` are the free ones that still hold a prefix."""
    states = block_states(table, geometry, cached)
    counts = np.bincount(states, minlength=len(BlockState)).tolist()
    cells = "".join(LETTERS[state] for state in downsample(states, MAX_CELLS))
    return BlockUsage(dict(zip(BlockState, counts, strict=True)), cells)


def block_states(
    table: TableArrays, geometry: TableGeometry, cached: Iterable[int]
) -> npt.NDArray[np.int8]:
    """Return the state of every block: shape (num_blocks,)."""
    used = {klass: _blocks_of(table, geometry, klass) for klass in Klass}
    full = np.where(table.be_row == NO_ROW, geometry.block_size, table.be_len)
    saved = (table.host_slot != NO_ROW) & (table.saved >= full)
    states = np.full(geometry.num_blocks, BlockState.FREE, dtype=np.int8)
    states[np.fromiter(cached, dtype=np.int64)] = BlockState.CACHED
    states[used[Klass.RT]] = BlockState.RT
    states[used[Klass.BE]] = BlockState.BE
    states[used[Klass.BE] & saved] = BlockState.SAVED
    states[used[Klass.RT] & used[Klass.BE]] = BlockState.SHARED
    return states


def _blocks_of(table: TableArrays, geometry: TableGeometry, klass: Klass) -> npt.NDArray[np.bool_]:
    """Return whether a row of this class holds or reads each block: shape (num_blocks,)."""
    rows = np.flatnonzero((table.klass == klass) & (table.resident_len > 0))
    held = -(-table.resident_len[rows] // geometry.block_size)
    mask = np.arange(geometry.blocks_per_row) < held[:, None]
    used = np.zeros(geometry.num_blocks, dtype=np.bool_)
    used[table.blocks[rows][mask]] = True
    return used


def downsample(states: npt.NDArray[np.int8], max_cells: int) -> npt.NDArray[np.int8]:
    """Return at most `max_cells` cells, each with the state that most of its blocks are in."""
    width = -(-len(states) // max_cells)
    starts = np.arange(0, len(states), width)
    votes = np.add.reduceat(np.eye(len(BlockState), dtype=np.int32)[states], starts)
    winners: npt.NDArray[np.int8] = votes.argmax(axis=1).astype(np.int8)
    return winners
