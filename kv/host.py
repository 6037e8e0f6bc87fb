"""Host memory for checkpoints of BE blocks, by slot; the oldest copy makes place for a new one."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass


@dataclass
class HostCopy:
    """The first `valid` tokens of a row's block, in host slot `slot`."""

    slot: int
    valid: int


class HostSlots:
    """Which row's which block lies in which slot."""

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self._free = list(range(num_slots - 1, -1, -1))
        self._users: OrderedDict[int, tuple[int, int]] = OrderedDict()  # slot -> row, block index
        self._pinned: int | None = None

    @property
    def num_used(self) -> int:
        return len(self._users)

    def take(self, row: int, index: int, evict: bool) -> tuple[int, tuple[int, int] | None] | None:
        """A slot, and the user that lost it, if one had to and might; None if there is none."""
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
        """Let no other copy have this slot; None: any may be had again."""
        self._pinned = slot

    def put(self, slot: int) -> None:
        """The copy is not needed any more."""
        del self._users[slot]
        self._free.append(slot)
