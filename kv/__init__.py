"""The KV cache's bookkeeping: a block table in shared memory, and the allocator that writes it.

This package imports only NumPy and the standard library; the workers own the tensors.
"""

if __name__ != "bros.kv":
    raise ImportError("import bros.kv, not kv: one file has one module name")

from bros.kv.allocator import Allocator
from bros.kv.counters import KvCosts, KvCounters
from bros.kv.layout import CopyKind, Klass, TableGeometry, slot_of
from bros.kv.prefix import TokenChain
from bros.kv.reclaim import KvOptions
from bros.kv.table import BlockTable, BlockTableView
from bros.kv.usage import BlockState, BlockUsage

__all__ = [
    "Allocator",
    "BlockState",
    "BlockTable",
    "BlockTableView",
    "BlockUsage",
    "CopyKind",
    "Klass",
    "KvCosts",
    "KvCounters",
    "KvOptions",
    "TableGeometry",
    "TokenChain",
    "slot_of",
]
