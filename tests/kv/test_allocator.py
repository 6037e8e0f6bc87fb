"""The allocator keeps the table's invariants under any sequence of operations."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from bros.kv import Allocator, BlockTable, Klass, TableGeometry, slot_of
from bros.kv.allocator import NoFreeRow


def make_allocator(folder: Path, num_blocks: int = 8, block_size: int = 4) -> Allocator:
    geometry = TableGeometry(
        num_blocks=num_blocks, block_size=block_size, max_rows=4, max_len=num_blocks * block_size
    )
    return Allocator(BlockTable(folder / "table", geometry), rt_reserve=1)


class AllocatorMachine(RuleBasedStateMachine):
    """Random rows grow, lose their tails and close; a model counts what each must hold."""

    @initialize()
    def start(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.allocator = make_allocator(Path(self.folder.name))
        self.resident: dict[int, int] = {}
        self.klass: dict[int, Klass] = {}

    def teardown(self) -> None:
        for row in list(self.resident):
            self.allocator.close_row(row)
        self.allocator.check()
        assert self.allocator.num_free == self.allocator.num_blocks
        self.folder.cleanup()

    @rule(klass=st.sampled_from(Klass))
    def open(self, klass: Klass) -> None:
        if len(self.resident) == 4:
            with pytest.raises(NoFreeRow):
                self.allocator.open_row(klass)
            return
        row = self.allocator.open_row(klass)
        assert row not in self.resident
        self.resident[row] = 0
        self.klass[row] = klass

    @precondition(lambda self: self.resident)
    @rule(data=st.data(), extra=st.integers(1, 12))
    def grow(self, data: st.DataObject, extra: int) -> None:
        row = data.draw(st.sampled_from(sorted(self.resident)))
        wanted = min(self.resident[row] + extra, 32)
        needed = self.allocator.blocks_for(wanted) - self.allocator.held(row)
        reserve = 1 if self.klass[row] is Klass.BE else 0
        fits = needed <= 0 or needed <= self.allocator.num_free - reserve
        assert self.allocator.grow(row, wanted) == fits
        if fits:
            self.resident[row] = wanted

    @precondition(lambda self: Klass.BE in self.klass.values())
    @rule(data=st.data())
    def preempt(self, data: st.DataObject) -> None:
        rows = sorted(row for row, klass in self.klass.items() if klass is Klass.BE)
        row = data.draw(st.sampled_from(rows))
        blocks = data.draw(st.integers(0, self.allocator.held(row)))
        kept = min(self.resident[row], (self.allocator.held(row) - blocks) * 4)
        assert self.allocator.drop_tail(row, blocks) == self.resident[row] - kept
        self.resident[row] = kept

    @precondition(lambda self: self.resident)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        row = data.draw(st.sampled_from(sorted(self.resident)))
        self.allocator.close_row(row)
        del self.resident[row], self.klass[row]

    @invariant()
    def holds(self) -> None:
        if not hasattr(self, "allocator"):
            return
        self.allocator.check()
        for row, resident in self.resident.items():
            assert self.allocator.resident(row) == resident


TestAllocator = AllocatorMachine.TestCase
TestAllocator.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize("block_size", [1, 4, 16])
def test_classes_fill_blocks_from_opposite_ends(block_size: int) -> None:
    for position in range(3 * block_size):
        left = slot_of(Klass.RT, position, block_size)
        right = slot_of(Klass.BE, position, block_size)
        assert left == position % block_size
        assert left + right == block_size - 1


def test_best_effort_leaves_the_reserve_to_real_time(tmp_path: Path) -> None:
    allocator = make_allocator(tmp_path)
    be, rt = allocator.open_row(Klass.BE), allocator.open_row(Klass.RT)
    assert not allocator.grow(be, 32)
    assert allocator.grow(be, 28)
    assert allocator.missing(rt, 8) == 1
    assert allocator.drop_tail(be, 1) == 4
    assert allocator.grow(rt, 8)
    allocator.check()


def test_check_finds_a_block_with_a_stolen_owner(tmp_path: Path) -> None:
    allocator = make_allocator(tmp_path)
    row = allocator.open_row(Klass.RT)
    allocator.grow(row, 8)
    allocator.table.rt_row[allocator.table.blocks[row, 0]] = 3
    with pytest.raises(AssertionError, match="disagree"):
        allocator.check()
