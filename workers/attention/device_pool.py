"""The KV pool on a device, as its kernels want it: head_dim innermost."""

from __future__ import annotations

import torch


class DevicePool:
    """`keys`, `values`: (layers, blocks + 1, block_size, kv_heads, head_dim).

    The last block, `spare_block`, belongs to no one: tokens that only pad a batch go there.
    """

    def __init__(
        self, shape: tuple[int, int, int, int, int], dtype: torch.dtype, device: str
    ) -> None:
        layers, blocks, block_size, kv_heads, head_dim = shape
        self.block_size = block_size
        self.spare_block = blocks
        whole = (layers, blocks + 1, block_size, kv_heads, head_dim)
        # Zeros, not empty: a slot that was never written must not hold a NaN.
        self.keys = torch.zeros(whole, dtype=dtype, device=device)
        self.values = torch.zeros(whole, dtype=dtype, device=device)

    @staticmethod
    def by_slot(keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Views of `keys` and `values`, laid out as the pool's, in which slots are dimension 2."""
        return keys, values
