"""What the shared block table looks like in memory, and where a token lives in a block.

RT sequence:  slot = p % B            fills 0, 1, 2, ... rightwards
BE sequence:  slot = B - 1 - p % B    fills B-1, B-2, ... leftwards
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

Column = npt.NDArray[np.int32]

MAGIC = 0x42524F53  # "BROS"
LAYOUT_VERSION = 2
NO_ROW = -1  # no owner: only in the int32 columns below, never in an interface
HEADER_WORDS = 16


class Klass(IntEnum):
    """The class of a request: real-time (RT) or best-effort (BE)."""

    RT = 0
    BE = 1

    @property
    def other(self) -> Klass:
        """The other class."""
        return _OTHER[self]


_OTHER = (Klass.BE, Klass.RT)


class CopyKind(IntEnum):
    """What an entry of the copy log does."""

    SAVE = 0  # block -> host slot
    RESTORE = 1  # host slot -> block
    MOVE = 2  # block -> block


def slot_of(klass: Klass, position: int, block_size: int) -> int:
    """Return the slot, within its block, of the token at `position` of a sequence."""
    offset = position % block_size
    return offset if klass is Klass.RT else block_size - 1 - offset


@dataclass(frozen=True)
class TableGeometry:
    """The sizes of a table, which never change: `max_rows` sequences of up to `max_len` tokens.

    `host_slots` blocks of host memory hold copies; an iteration makes at most `max_copies` copies.
    """

    num_blocks: int
    block_size: int
    max_rows: int
    max_len: int
    host_slots: int = 0
    max_copies: int = 0

    @property
    def blocks_per_row(self) -> int:
        """Blocks of a sequence with `max_len` tokens."""
        return -(-self.max_len // self.block_size)


class TableArrays:
    """Views of one mapped table: a header, then one int32 array after another.

    Per block: `rt_row`, `be_row` (its owners), `rt_len`, `be_len` (how many slots each uses),
    `saved` (BE tokens that a host copy has), `host_slot` (where that copy is), `refs` (rows that
    read a published block). Per row: `klass`, `num_tokens` (resident now or earlier),
    `resident_len`, and `blocks`, shape (max_rows, blocks_per_row). `copies`, shape (max_copies, 4),
    is the copy log of the plan in flight: kind, source, target, and the number of slots. These are
    counted from the right, where BE's tokens lie.
    """

    BLOCK_FIELDS = ("rt_row", "rt_len", "be_row", "be_len", "saved", "host_slot", "refs")
    ROW_FIELDS = ("klass", "num_tokens", "resident_len")

    rt_row: Column
    rt_len: Column
    be_row: Column
    be_len: Column
    saved: Column
    host_slot: Column
    refs: Column
    klass: Column
    num_tokens: Column
    resident_len: Column

    def __init__(self, words: Column, geometry: TableGeometry) -> None:
        self.header = words[:HEADER_WORDS]
        at = HEADER_WORDS
        for names, length in (
            (self.BLOCK_FIELDS, geometry.num_blocks),
            (self.ROW_FIELDS, geometry.max_rows),
        ):
            for name in names:
                setattr(self, name, words[at : at + length])
                at += length
        shape = (geometry.max_rows, geometry.blocks_per_row)
        self.blocks = words[at : at + shape[0] * shape[1]].reshape(shape)
        at += shape[0] * shape[1]
        self.copies = words[at : at + 4 * geometry.max_copies].reshape(geometry.max_copies, 4)

    @classmethod
    def num_words(cls, geometry: TableGeometry) -> int:
        """Return the size of a table in int32 words."""
        return (
            HEADER_WORDS
            + len(cls.BLOCK_FIELDS) * geometry.num_blocks
            + (len(cls.ROW_FIELDS) + geometry.blocks_per_row) * geometry.max_rows
            + 4 * geometry.max_copies
        )


def header_of(geometry: TableGeometry, epoch: int) -> list[int]:
    """Return the first words of the header; `epoch` counts the tables made for one worker."""
    return [MAGIC, LAYOUT_VERSION, epoch, *astuple(geometry)]
