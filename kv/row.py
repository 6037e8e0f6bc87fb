"""One sequence in the KV cache: its blocks, its host copies, and how much of it is resident."""

from __future__ import annotations

from dataclasses import dataclass, field

from bros.kv.host import HostCopy
from bros.kv.layout import Klass
from bros.kv.prefix import TokenChain


@dataclass(slots=True, eq=False)
class Row:
    """The resident tokens are always the prefix `[0, resident)`; all blocks but the last are full.

    `RowTable` alone changes `blocks`, `resident` and `written`; `CheckpointPlanner` alone changes
    `copies`.
    """

    index: int
    klass: Klass
    chain: TokenChain
    blocks: list[int] = field(default_factory=list)
    resident: int = 0
    written: int = 0  # tokens resident since before the plan: only these can be saved ahead
    copies: dict[int, HostCopy] = field(default_factory=dict)  # by index in `blocks`, lost or not
