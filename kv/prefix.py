"""Full blocks by their content: what one request computed, another with the same prefix reads.

A block is found by a digest of its tokens and of all tokens before them. Both classes share the
index, because attention reads a full block in either direction.
"""

from __future__ import annotations

from array import array
from hashlib import blake2b

from bros.kv.layout import Klass

DIGEST_BYTES = 16  # nobody can make two contents collide, not even on purpose


class TokenChain:
    """The growing tokens of one request, in blocks; the digest of each is computed once."""

    def __init__(self, tokens: list[int], block_size: int) -> None:
        self.tokens = tokens
        self._block_size = block_size
        self._digests: list[bytes] = []

    def __len__(self) -> int:
        return len(self.tokens)

    def digest(self, index: int) -> bytes:
        """Return the digest of full block `index` and all blocks before it."""
        size, digests = self._block_size, self._digests
        while len(digests) <= index:
            first = len(digests) * size
            content = array("i", self.tokens[first : first + size]).tobytes()
            before = digests[-1] if digests else b""
            digests.append(blake2b(before + content, digest_size=DIGEST_BYTES).digest())
        return digests[index]


class PrefixIndex:
    """Which block holds which content, and whether an RT request ever used it."""

    def __init__(self) -> None:
        self._block_of: dict[bytes, int] = {}
        self._digest_of: dict[int, bytes] = {}
        self._klass_of: dict[int, Klass] = {}

    def __contains__(self, block: int) -> bool:
        return block in self._digest_of

    def __len__(self) -> int:
        return len(self._digest_of)

    def find(self, digest: bytes) -> int | None:
        """Return the block with this content, if there is one."""
        return self._block_of.get(digest)

    def klass_of(self, block: int) -> Klass:
        """Return RT if any real-time request has used the block."""
        return self._klass_of[block]

    def publish(self, block: int, digest: bytes, klass: Klass) -> None:
        """Let `find` find the block."""
        self._block_of[digest] = block
        self._digest_of[block] = digest
        self._klass_of[block] = klass

    def used_by(self, block: int, klass: Klass) -> None:
        """Note a reader: an RT reader makes a BE block an RT block."""
        if klass is Klass.RT:
            self._klass_of[block] = klass

    def withdraw(self, block: int) -> None:
        """Forget the block: its content is about to change."""
        del self._block_of[self._digest_of.pop(block)]
        del self._klass_of[block]
