"""One sequence in the KV cache: its blocks, its host copies, how much of it is resident."""

from __future__ import annotations

from dataclasses import dataclass, field

from bros.kv.host import HostCopy
from bros.kv.layout import Klass
from bros.kv.prefix import TokenChain


@dataclass(slots=True, eq=False)
class Row:
    """Resident tokens are always the prefix `[0, resident)`; all blocks but the last are full."""

    index: int
    klass: Klass
    chain: TokenChain
    blocks: list[int] = field(default_factory=list)
    copies: dict[int, HostCopy] = field(default_factory=dict)  # by index in `blocks`, lost or not
    resident: int = 0
    written: int = (
        0  # tokens that were resident since before the plan; no others can be saved ahead
    )
