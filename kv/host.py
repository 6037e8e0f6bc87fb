"""Slots of host memory for copies of BE blocks; a new copy may take the slot of the oldest one."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass


@dataclass
class HostCopy:
    """The first `valid` tokens of a row's block, in host slot `slot`."""

    slot: int
    valid: int


class HostSlots:
    """Which slot has the copy of which row and block."""

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self._free = list(range(num_slots - 1, -1, -1))
        self._users: OrderedDict[int, tuple[int, int]] = OrderedDict()  # slot -> row, block index
        self._pinned: int | None = None

    @property
    def num_used(self) -> int:
        """Slots with a copy."""
        return len(self._users)

    def claim(self, row: int, index: int, evict: bool) -> tuple[int, tuple[int, int] | None] | None:
        """Give a slot to block `index` of the row. Return the slot and, if any, who has lost it.

        Return None if no slot is free and none may be evicted.
        """
        loser = None
        if not self._free:
            slot = next((slot for slot in self._users if slot != self._pinned), None)
            if slot is None or not evict:
                return None
            loser = self._users.pop(slot)
            self._free.append(slot)
        slot = self._free.pop()
        self._users[slot] = (row, index)
        return slot, loser

    def pin(self, slot: int | None) -> None:
        """Keep this slot from being evicted; None: no slot is kept any more."""
        self._pinned = slot

    def release(self, slot: int) -> None:
        """Free the slot: its copy is not needed any more."""
        del self._users[slot]
        self._free.append(slot)
