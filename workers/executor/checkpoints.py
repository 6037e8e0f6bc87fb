"""Copies between a KV pool and host memory, or within the pool, as a plan's copy log says.

On a CPU both are RAM; the copies and their limits are real all the same.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch

from bros.kv import CopyKind
from bros.workers.attention.device_pool import DevicePool
from bros.workers.attention.interface import KvPool


@dataclass(frozen=True)
class Copied:
    """What one iteration's copies took."""

    num_bytes: int = 0
    seconds: float = 0.0


class CheckpointCopier:
    """A host pool of `num_slots` blocks beside `pool`; its memory is touched when it is used."""

    def __init__(self, pool: KvPool | DevicePool, num_slots: int) -> None:
        host = _host_like(pool.keys, num_slots), _host_like(pool.values, num_slots)
        self._pool = pool.by_slot(pool.keys, pool.values)
        self._host = pool.by_slot(*host)
        self._copied = Copied()
        self._slot_bytes = sum(part[:, 0, 0].nbytes for part in self._pool)

    def run(self, log: np.ndarray) -> None:
        """Make the copies of `log`, (copies, 4) as in `TableArrays.copies`, in order.

        Each concerns the last slots of a block only: the others may be another class's.
        """
        began_s = time.monotonic()
        num_slots = 0
        for kind, source, target, slots in log.tolist():
            num_slots += slots
            from_host, to_host = kind == CopyKind.RESTORE, kind == CopyKind.SAVE
            targets = self._host if to_host else self._pool
            sources = self._host if from_host else self._pool
            for to, there in zip(targets, sources, strict=True):
                first = to.shape[2] - slots
                to[:, target, first:] = there[:, source, first:]
        self._copied = Copied(num_slots * self._slot_bytes, time.monotonic() - began_s)

    def copied(self) -> Copied:
        """Return what the last `run` took."""
        return self._copied


def _host_like(pool: torch.Tensor, num_slots: int) -> torch.Tensor:
    """Return host memory for blocks of `pool`, in which each checkpoint is one piece."""
    layers, _, *block = pool.shape
    return torch.empty((num_slots, layers, *block), dtype=pool.dtype).transpose(0, 1)
