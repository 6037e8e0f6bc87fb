"""The state of the KV pool, and the questions that a scheduler has about it."""

from __future__ import annotations

from collections.abc import Iterable

from bros.kv.blocks import Blocks
from bros.kv.checkpoints import CheckpointPlanner
from bros.kv.counters import KvCosts, KvCounters
from bros.kv.free_blocks import FreeBlocks
from bros.kv.layout import Klass
from bros.kv.prefix import TokenChain
from bros.kv.reclaim import BlockReclaimer, KvOptions
from bros.kv.reuse import KvReuse
from bros.kv.rows import RowTable
from bros.kv.table import BlockTable
from bros.kv.tails import RowTails
from bros.kv.usage import BlockUsage, block_usage


class PoolState:
    """Rows, blocks and host copies of one table. No public method changes anything."""

    def __init__(
        self,
        table: BlockTable,
        options: KvOptions | None = None,
        costs: KvCosts | None = None,
        counters: KvCounters | None = None,
    ) -> None:
        self.table = table
        self.block_size = size = table.geometry.block_size
        self.num_blocks = table.geometry.num_blocks
        self.options = options = options or KvOptions()
        self.costs = costs or KvCosts()
        self.counters = counters = counters or KvCounters()
        free = FreeBlocks(self.num_blocks, options.rt_reserve, options.rt_cached)
        self._rows = rows = RowTable(table)
        self._blocks = blocks = Blocks(table, free, counters)
        self._checkpoints = copies = CheckpointPlanner(table, blocks, self.costs, counters)
        self._reclaimer = reclaimer = BlockReclaimer(size, options, rows, blocks, copies, counters)
        self._tails = tails = RowTails(
            size, rows, blocks, copies, reclaimer, publish=options.prefix
        )
        self._reuse = KvReuse(size, options, rows, blocks, tails, copies, reclaimer, counters)

    # -- the pool --------------------------------------------------------------------------------

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
        return self._rows.num_free

    @property
    def num_copies(self) -> int:
        """Entries of the copy log that belong to the plan."""
        return self._checkpoints.num_logged

    @property
    def max_copies(self) -> int:
        """Entries that the copy log can have."""
        return len(self.table.copies)

    def usage(self) -> BlockUsage:
        """Return what the blocks are used for."""
        return block_usage(self.table, self.table.geometry, self._blocks.free.cached())

    def available(self, klass: Klass) -> int:
        """Return how many free blocks a row of this class may take: the reserve is RT's."""
        return self._blocks.free.available(klass)

    def blocks_for(self, num_tokens: int) -> int:
        """Return how many blocks hold `num_tokens` tokens of one sequence."""
        return -(-num_tokens // self.block_size)

    # -- requests without a row ------------------------------------------------------------------

    def needed(self, chain: TokenChain, held: int = 0) -> int:
        """Return how many blocks the tokens need beyond the first `held`.

        Blocks that other rows read already are not counted.
        """
        total = self.blocks_for(len(chain))
        return total - held - self._reuse.num_published(chain, held, readers=1)

    def cached_tokens(self, chain: TokenChain) -> int:
        """Return how many tokens at the start of `chain` are in published blocks."""
        return self._reuse.num_published(chain) * self.block_size

    def can_have(self, num_blocks: int, klass: Klass, rows: Iterable[int]) -> bool:
        """Whether a row of this class could have so many blocks if `rows` lost all of theirs."""
        held = (self._rows[row] for row in rows)
        return self._reclaimer.num_needed(held, klass, num_blocks) is not None

    # -- rows ------------------------------------------------------------------------------------

    def held(self, row: int) -> int:
        """Return how many blocks the row holds."""
        return len(self._rows[row].blocks)

    def resident(self, row: int) -> int:
        """Return how many of the row's tokens have KV in the pool once the plan has run."""
        return self._rows[row].resident

    def is_hurt(self, row: int) -> bool:
        """Whether the row has lost tokens that it had."""
        return self._rows.is_hurt(row)

    def lacking(self, row: int) -> int:
        """Return how many blocks the row must take before it can hold all its known tokens."""
        held = self._rows[row]
        length, count = len(held.chain), len(held.blocks)
        more = self.needed(held.chain, count) if count * self.block_size < length else 0
        return more + self._tails.must_move(held, length)

    def tail_loss(self, row: int) -> int:
        """Return how many tokens of the row's last block have no copy: what its loss costs."""
        held = self._rows[row]
        if not held.blocks:
            return 0
        index = len(held.blocks) - 1
        length = held.resident - index * self.block_size
        return max(0, length - self._checkpoints.num_valid(held, index))

    def next_copy(self, row: int) -> int | None:
        """Return the first position behind the resident tokens where a host copy starts, if any."""
        held = self._rows[row]
        starts = (block * self.block_size for block in held.copies)
        return min((start for start in starts if start > held.resident), default=None)
