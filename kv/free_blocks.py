"""Blocks that no row holds: empty ones, and cached ones whose content may serve a prefix again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from bros.kv.layout import Klass


class FreeBlocks:
    """Free blocks; of cached ones BE's are given away before RT's, the least recently used first.

    BE must leave `reserve` free blocks, and up to `protected` cached prefixes of RT.
    """

    def __init__(self, num_blocks: int, reserve: int, protected: int) -> None:
        self._empty = list(range(num_blocks - 1, -1, -1))
        self._cached: dict[Klass, OrderedDict[int, None]] = {k: OrderedDict() for k in Klass}
        self._reserve = reserve
        self._protected = protected

    def __len__(self) -> int:
        return len(self._empty) + sum(len(cached) for cached in self._cached.values())

    def __iter__(self) -> Iterator[int]:
        yield from self._empty
        yield from self.cached()

    def cached(self) -> Iterator[int]:
        """Yield the blocks with content."""
        for cached in self._cached.values():
            yield from cached

    def available(self, klass: Klass, more: int = 0, more_rt: int = 0) -> int:
        """Return how many blocks a request of this class may take.

        Count as if `more` blocks were free, `more_rt` of them cached prefixes of RT.
        """
        num_free = len(self) + more
        if klass is Klass.RT:
            return num_free
        cached_rt = len(self._cached[Klass.RT]) + more_rt
        return max(0, num_free - max(self._reserve, min(self._protected, cached_rt)))

    @property
    def num_spare(self) -> int:
        """Free blocks above the reserve."""
        return max(0, len(self) - self._reserve)

    def put(self, block: int) -> None:
        """Add a block without content."""
        self._empty.append(block)

    def put_cached(self, block: int, klass: Klass) -> None:
        """Add a block whose content may be asked for again; `klass` is who used it."""
        self._cached[klass][block] = None

    def revive(self, block: int, klass: Klass) -> None:
        """Remove a cached block, put as `klass`, that a row reads again."""
        del self._cached[klass][block]

    def pop(self) -> tuple[int, bool]:
        """Remove and return a block, and whether it was a cached one; check `available` first."""
        if self._empty:
            return self._empty.pop(), False
        cached = self._cached[Klass.BE] or self._cached[Klass.RT]
        return cached.popitem(last=False)[0], True
