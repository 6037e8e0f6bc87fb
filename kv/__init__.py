"""The KV cache's bookkeeping: a block table in shared memory and the allocator that writes it.

Imports only NumPy and the standard library; the tensors themselves belong to the workers.
"""

if __name__ != "bros.kv":
    raise ImportError("import bros.kv, not kv: one file has one module name")

from bros.kv.allocator import Allocator
from bros.kv.block_map import BlockState, Picture
from bros.kv.counters import KvCosts, KvCounters
from bros.kv.layout import CopyKind, Klass, TableGeometry, slot_of
from bros.kv.prefix import TokenChain
from bros.kv.reclaim import KvOptions
from bros.kv.table import BlockTable, BlockTableView

__all__ = [
    "Allocator",
    "BlockState",
    "BlockTable",
    "BlockTableView",
    "CopyKind",
    "Klass",
    "KvCosts",
    "KvCounters",
    "KvOptions",
    "Picture",
    "TableGeometry",
    "TokenChain",
    "slot_of",
]
