"""Gives KV blocks to sequence rows: the one writer of a block table.

A row grows by what a plan computes, and by what it need not compute: published blocks with the same
prefix, and host copies of what it had lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bros.kv.block_map import Picture, draw
from bros.kv.blocks import Blocks
from bros.kv.checkpoints import CheckpointPlanner
from bros.kv.counters import KvCosts, KvCounters
from bros.kv.free_blocks import FreeBlocks
from bros.kv.layout import Klass
from bros.kv.prefix import TokenChain
from bros.kv.reclaim import BlockReclaimer, KvOptions
from bros.kv.row import Row
from bros.kv.table import BlockTable


class NoFreeRow(RuntimeError):
    """All rows of the table are taken."""


class Allocator:
    """Blocks and rows of one table. `begin_plan`, then `reuse` and `grow` row after row."""

    def __init__(
        self,
        table: BlockTable,
        options: KvOptions | None = None,
        costs: KvCosts | None = None,
        counters: KvCounters | None = None,
    ) -> None:
        self.table = table
        self.block_size = table.geometry.block_size
        self.num_blocks = table.geometry.num_blocks
        self.options = options or KvOptions()
        self.costs = costs or KvCosts()
        self.counters = counters or KvCounters()
        free = FreeBlocks(self.num_blocks, self.options.rt_reserve, self.options.rt_cached)
        self._blocks = Blocks(table, free, self.counters)
        self._checkpoints = CheckpointPlanner(table, self._blocks, self.costs, self.counters)
        self._free_rows = list(range(table.geometry.max_rows - 1, -1, -1))
        self._rows: dict[int, Row] = {}
        self._planned: set[int] = set()
        self._supply = BlockReclaimer(
            table,
            self.options,
            self._blocks,
            self._checkpoints,
            self.counters,
            self._rows,
            self._planned,
        )

    # -- what there is ---------------------------------------------------------------------------

    @property
    def num_free(self) -> int:
        """Blocks that no row holds, cached ones included."""
        return len(self._blocks.free)

    @property
    def num_host_used(self) -> int:
        """Host slots with a copy."""
        return self._checkpoints.num_used

    @property
    def num_rows(self) -> int:
        """Rows in use."""
        return len(self._rows)

    @property
    def num_free_rows(self) -> int:
        """Rows that can be opened."""
        return len(self._free_rows)

    @property
    def num_copies(self) -> int:
        """Entries of the copy log that belong to the plan."""
        return self._checkpoints.num_logged

    @property
    def max_copies(self) -> int:
        """Entries that the copy log can have."""
        return len(self.table.copies)

    def picture(self) -> Picture:
        """What the blocks are used for."""
        return draw(self.table, self.table.geometry, self._blocks.free.cached())

    def available(self, klass: Klass) -> int:
        """Free blocks that a row of this class may take: the reserve is RT's."""
        return self._blocks.free.available(klass)

    def blocks_for(self, num_tokens: int) -> int:
        """Blocks that hold `num_tokens` tokens of one sequence."""
        return -(-num_tokens // self.block_size)

    def held(self, row: int) -> int:
        """Blocks that the row holds."""
        return len(self._rows[row].blocks)

    def resident(self, row: int) -> int:
        """Tokens of the row whose KV is in the pool, or will be after the plan in flight."""
        return self._rows[row].resident

    def lacking(self, row: int) -> int:
        """Blocks that the row must take before it can hold all its known tokens."""
        held = self._rows[row]
        length, count = len(held.chain), len(held.blocks)
        more = self.needed(held.chain, count) if count * self.block_size < length else 0
        return more + self._must_move(held, length)

    def needed(self, chain: TokenChain, held: int = 0) -> int:
        """Blocks for a request's known tokens beyond those it holds and those others hold."""
        total = self.blocks_for(len(chain))
        index = held
        while index < total and self._find(chain, index, readers=1) is not None:
            index += 1
        return total - index

    def cached_tokens(self, chain: TokenChain) -> int:
        """Tokens at the start of `chain` that published blocks hold, read by a row or not."""
        index = 0
        while self._find(chain, index) is not None:
            index += 1
        return index * self.block_size

    def can_have(self, num_blocks: int, klass: Klass, rows: Iterable[int]) -> bool:
        """Whether a row of this class could have so many blocks if these lost everything."""
        held = (self._rows[row] for row in rows)
        return self._supply.num_needed(held, klass, num_blocks) is not None

    def tail_loss(self, row: int) -> int:
        """Tokens without a copy in the row's last block: what taking it would cost."""
        held = self._rows[row]
        if not held.blocks:
            return 0
        index = len(held.blocks) - 1
        length = held.resident - index * self.block_size
        return max(0, length - self._checkpoints.num_valid(held, index))

    def is_hurt(self, row: int) -> bool:
        """Whether the row has lost tokens that it had."""
        return self._rows[row].resident < self._supply.num_known(row)

    # -- rows ------------------------------------------------------------------------------------

    def open_row(self, klass: Klass, chain: TokenChain) -> int:
        """A new, empty row for the tokens of `chain`, which may grow. NoFreeRow if it is full."""
        if not self._free_rows:
            raise NoFreeRow(f"all {self.table.geometry.max_rows} rows are in use")
        index = self._free_rows.pop()
        self._rows[index] = Row(index, klass, chain)
        self.table.klass[index] = klass
        self.table.num_tokens[index] = self.table.resident_len[index] = 0
        return index

    def close_row(self, index: int) -> None:
        """Free the row, its blocks and its copies."""
        row = self._rows.pop(index)
        self._checkpoints.discard_all(row)
        for block in reversed(row.blocks):  # the oldest content is the last to be evicted
            self._blocks.release(block, row.klass)
        self.table.num_tokens[index] = self.table.resident_len[index] = 0
        self._free_rows.append(index)

    # -- plans -----------------------------------------------------------------------------------

    def begin_plan(self) -> None:
        """The last plan is done: its copies are made, its rows may be hurt again."""
        self._checkpoints.begin_plan()
        for index in self._planned & self._rows.keys():
            self._rows[index].written = self._rows[index].resident
        self._planned.clear()

    def reuse(self, index: int, victims: Sequence[int] = ()) -> int:
        """Take up cached prefixes and host copies that continue the row; its resident tokens.

        At least one known token is left to compute: it is what the next one is sampled from. As in
        `grow`, blocks for copies may be taken from `victims`.
        """
        row = self._rows[index]
        before = row.resident
        while self._read_cached(row) or self._restore(row, victims):
            pass
        if row.resident != before:
            self._supply.note_resident(row)
        return row.resident

    def next_copy(self, index: int) -> int | None:
        """Position behind the row's resident tokens from which a host copy goes on, if any."""
        row = self._rows[index]
        starts = (block * self.block_size for block in row.copies)
        return min((start for start in starts if start > row.resident), default=None)

    def grow(self, index: int, num_tokens: int, victims: Sequence[int] = ()) -> bool:
        """Make room for the first `num_tokens` tokens of the row; False, and no change, if not.

        The added tokens count as resident: the caller must compute them in the plan. What free
        blocks do not give is taken from `victims`, BE rows, the first first, unless they are in
        the plan; nothing is taken if all of it would not be enough.
        """
        row = self._rows[index]
        if not self._has_room(row, num_tokens) and (
            self._meets_planned(row, num_tokens) or not self._extend(row, num_tokens, victims)
        ):
            return False
        self._planned.add(index)
        for block in range(row.resident // self.block_size, len(row.blocks)):
            length = min(self.block_size, num_tokens - block * self.block_size)
            self._set_length(row, block, length)
        row.resident = num_tokens
        self._supply.note_resident(row)
        return True

    def grow_by_one(self, index: int) -> bool:
        """`grow` by a token that neither fills its block nor hurts anybody; False if it would."""
        row = self._rows[index]
        length = row.resident % self.block_size + 1
        if length in (1, self.block_size):
            return False
        if not self._blocks.lengthen(row.blocks[-1], row.klass, length):
            return False
        self._planned.add(index)
        row.resident += 1
        self._supply.note_resident(row)
        return True

    def give_up(self, index: int) -> None:
        """Take everything from a BE row but the row itself; its blocks are saved if that pays."""
        row = self._rows[index]
        self._supply.lose_tail(row, len(row.blocks))

    def save_ahead(self, rows: Iterable[int], enough: int, max_copies: int) -> None:
        """Save full tail blocks of these BE rows, the first first: losing them is then free.

        Not more than `max_copies`, and only until `enough` of their blocks are saved: what is saved
        and then not lost was saved in vain.
        """
        for index in rows:
            row = self._rows[index]
            full = min(row.resident, row.written) // self.block_size
            for block in range(full - 1, -1, -1):
                if enough <= 0 or max_copies <= 0:
                    return
                if not self._checkpoints.is_saved(row, block, self.block_size):
                    if not self._blocks.is_left(row.blocks[block]):
                        break
                    if not self._checkpoints.save(row, block, self.block_size, evict=False):
                        return
                    max_copies -= 1
                enough -= 1

    # -- growing ---------------------------------------------------------------------------------

    def _has_room(self, row: Row, num_tokens: int) -> bool:
        """Whether the row's last block has free slots for the tokens: so it mostly is."""
        last = num_tokens - (len(row.blocks) - 1) * self.block_size
        if last > self.block_size or row.resident % self.block_size == 0:
            return False
        return last <= self._blocks.room(row.blocks[-1], row.klass)

    def _meets_planned(self, row: Row, num_tokens: int) -> bool:
        """Whether an RT tail would grow into the tail of a BE row that is in the plan."""
        if row.klass is Klass.BE or row.resident % self.block_size == 0:
            return False
        block = row.blocks[-1]
        length = min(self.block_size, num_tokens - (len(row.blocks) - 1) * self.block_size)
        other = self._blocks.owner(block, Klass.BE)
        return other in self._planned and length > self._blocks.room(block, Klass.RT)

    def _must_move(self, row: Row, num_tokens: int) -> bool:
        """Whether RT has taken the slots of the row's last block that come next."""
        if row.klass is Klass.RT or row.resident % self.block_size == 0:
            return False
        length = min(self.block_size, num_tokens - (len(row.blocks) - 1) * self.block_size)
        return length > self._blocks.room(row.blocks[-1], Klass.BE)

    def _extend(self, row: Row, num_tokens: int, victims: Sequence[int]) -> bool:
        """Add the blocks that `num_tokens` tokens need; False, and no change, if they lack."""
        moving = self._must_move(row, num_tokens)
        count = self.blocks_for(num_tokens) - len(row.blocks) + moving
        if count <= 0:
            return True
        if moving and not self._checkpoints.hold():
            return False
        last = (num_tokens - 1) % self.block_size + 1
        blocks = self._supply.obtain(row.klass, count, last, victims)
        if blocks is None:
            self._checkpoints.let_go()
            return False
        if moving:
            self._move_tail(row, blocks.pop(0))
        for block in blocks:
            self._add_block(row, block)
        return True

    def _add_block(self, row: Row, block: int) -> None:
        self._blocks.own(block, row.klass, row.index)
        self.table.blocks[row.index, len(row.blocks)] = block
        row.blocks.append(block)

    def _move_tail(self, row: Row, target: int) -> None:
        """Put the row's last, partial block elsewhere: RT fills up the one it lies in."""
        source, index = row.blocks.pop(), len(row.blocks)
        length = row.resident - index * self.block_size
        self._checkpoints.move(source, target, length)
        self._blocks.disown(source, row.klass)
        self._add_block(row, target)
        self._blocks.set_length(target, row.klass, length)

    def _set_length(self, row: Row, index: int, length: int) -> None:
        block = row.blocks[index]
        if row.klass is Klass.RT:
            self._supply.evict_be_overlap(block, self.block_size - length)
        self._blocks.set_length(block, row.klass, length)
        if length == self.block_size and self.options.prefix:
            self._blocks.publish(block, row.klass, row.chain.digest(index))

    # -- taking up -------------------------------------------------------------------------------

    def _find(self, chain: TokenChain, index: int, readers: int = 0) -> int | None:
        """The published block with block `index` of these tokens, with at least `readers`."""
        if not self.options.prefix or (index + 1) * self.block_size >= len(chain):
            return None
        block = self._blocks.index.find(chain.digest(index))
        if block is None or self._blocks.readers(block) < readers:
            return None
        return block

    def _read_cached(self, row: Row) -> bool:
        """Add the published block that continues the row, if there is one."""
        if row.resident % self.block_size:
            return False
        block = self._find(row.chain, len(row.blocks))
        if block is None:
            return False
        if not self._blocks.readers(block) and not self.available(row.klass):
            return False  # BE: what is free is RT's reserve
        self._blocks.read(block, row.klass)
        self.table.blocks[row.index, len(row.blocks)] = block
        row.blocks.append(block)
        row.resident += self.block_size
        self.counters.prefix_hit_tokens[row.klass] += self.block_size
        return True

    def _restore(self, row: Row, victims: Sequence[int]) -> bool:
        """Bring back the host copy that continues the row, if there is one and a place for it."""
        index, resident = divmod(row.resident, self.block_size)
        known = len(row.chain) - 1 - index * self.block_size
        valid = min(self._checkpoints.num_valid(row, index), known)
        if valid <= resident or not self._checkpoints.hold(row.copies[index]):
            return False
        if not resident or valid > self._blocks.room(row.blocks[-1], Klass.BE):
            blocks = self._supply.obtain(row.klass, 1, valid, victims)
            if blocks is None:
                self._checkpoints.let_go()
                return False
            if resident:
                self._blocks.disown(row.blocks.pop(), row.klass)
            self._add_block(row, blocks[0])
        self._checkpoints.restore(row, index, valid)
        row.resident += valid - resident
        self._set_length(row, index, valid)
        if not self.options.keep_copies:
            self._checkpoints.discard(row, index)
        return True
