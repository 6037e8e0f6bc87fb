"""A picture of a block table for people: what each block is used for, one letter per cell."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from bros.kv.layout import NO_ROW, Klass, TableArrays, TableGeometry

MAX_CELLS = 512
LETTERS = ".cRBSX"  # by state


class BlockState(IntEnum):
    """What a block is used for."""

    FREE = 0
    CACHED = 1  # nobody holds it, but its content may serve a prefix again
    RT = 2
    BE = 3
    SAVED = 4  # BE, and all of it has a host copy
    SHARED = 5  # both classes: two tails in one block, or a prefix that both read


@dataclass(frozen=True)
class Picture:
    """Blocks by state, and the table as cells: each stands for equally many blocks in a row."""

    counts: dict[BlockState, int]
    cells: str


def draw(table: TableArrays, geometry: TableGeometry, cached: Iterable[int]) -> Picture:
    """The picture of a table; `cached` are the free blocks that still hold a prefix."""
    states = block_states(table, geometry, cached)
    counts = np.bincount(states, minlength=len(BlockState)).tolist()
    cells = "".join(LETTERS[state] for state in downsample(states, MAX_CELLS))
    return Picture(dict(zip(BlockState, counts, strict=True)), cells)


def block_states(
    table: TableArrays, geometry: TableGeometry, cached: Iterable[int]
) -> npt.NDArray[np.int8]:
    """The state of every block, from the rows that hold or read it."""
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
    """Which blocks the rows of a class hold or read."""
    rows = np.flatnonzero((table.klass == klass) & (table.resident_len > 0))
    held = -(-table.resident_len[rows] // geometry.block_size)
    mask = np.arange(geometry.blocks_per_row) < held[:, None]
    used = np.zeros(geometry.num_blocks, dtype=np.bool_)
    used[table.blocks[rows][mask]] = True
    return used


def downsample(states: npt.NDArray[np.int8], max_cells: int) -> npt.NDArray[np.int8]:
    """At most `max_cells` cells, each with the state that most of its blocks are in."""
    width = -(-len(states) // max_cells)
    starts = np.arange(0, len(states), width)
    votes = np.add.reduceat(np.eye(len(BlockState), dtype=np.int32)[states], starts)
    winners: npt.NDArray[np.int8] = votes.argmax(axis=1).astype(np.int8)
    return winners
