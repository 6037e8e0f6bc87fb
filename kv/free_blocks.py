"""Blocks that nobody holds: empty ones, and cached ones whose content may serve a prefix again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from bros.kv.layout import Klass


class FreeBlocks:
    """Least recently used first, within a class.

    Of free blocks BE leaves `reserve`, and up to `protected` that hold cached prefixes of RT.
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
        """Those with content."""
        for cached in self._cached.values():
            yield from cached

    def available(self, klass: Klass, more: int = 0, more_rt: int = 0) -> int:
        """How many blocks a request of this class may take.

        Or could take with `more` free ones, `more_rt` of them with cached prefixes of RT.
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
        """A block without content."""
        self._empty.append(block)

    def put_cached(self, block: int, klass: Klass) -> None:
        """A block whose content may be asked for again; `klass` is who used it."""
        self._cached[klass][block] = None

    def claim(self, block: int, klass: Klass) -> None:
        """A cached block, put as `klass`, is read again."""
        del self._cached[klass][block]

    def take(self) -> tuple[int, bool]:
        """A block, and whether it is one whose content was cached; check `available` first."""
        if self._empty:
            return self._empty.pop(), False
        cached = self._cached[Klass.BE] or self._cached[Klass.RT]
        return cached.popitem(last=False)[0], True
