"""Copies between a KV pool and host memory, or within the pool, as the plan's copy log says.

On CPU both pools are RAM; the copies and their limits are real all the same.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch

from bros.kv import CopyKind
from bros.workers.attention.interface import KvPool


@dataclass(frozen=True)
class Copied:
    """What one iteration's copies took."""

    num_bytes: int = 0
    seconds: float = 0.0


class CheckpointCopier:
    """A host pool of `num_slots` blocks beside `pool`; its memory is touched when it is used."""

    def __init__(self, pool: KvPool, num_slots: int) -> None:
        self._keys, self._values = pool.keys, pool.values
        self._host_keys = _host_like(self._keys, num_slots)
        self._host_values = _host_like(self._values, num_slots)
        self._copied = Copied()
        self._slot_bytes = self._keys[:, 0, :, :, 0].nbytes + self._values[:, 0, :, 0].nbytes

    def run(self, log: np.ndarray) -> None:
        """Make the copies of `log`, (copies, 4) as in `TableArrays.copies`, in order."""
        began_s = time.monotonic()
        num_slots = 0
        for kind, source, target, slots in log.tolist():
            num_slots += slots
            from_host, to_host = kind == CopyKind.RESTORE, kind == CopyKind.SAVE
            keys, values = self._pools(to_host)
            source_keys, source_values = self._pools(from_host)
            first = keys.shape[-1] - slots
            keys[:, target, :, :, first:] = source_keys[:, source, :, :, first:]
            values[:, target, :, first:] = source_values[:, source, :, first:]
        self._copied = Copied(num_slots * self._slot_bytes, time.monotonic() - began_s)

    def copied(self) -> Copied:
        """What the last `run` took."""
        return self._copied

    def _pools(self, host: bool) -> tuple[torch.Tensor, torch.Tensor]:
        return (self._host_keys, self._host_values) if host else (self._keys, self._values)


def _host_like(pool: torch.Tensor, num_slots: int) -> torch.Tensor:
    """Host memory for blocks of `pool`, (slots, layers, ...): a checkpoint is one piece."""
    layers, _, *block = pool.shape
    return torch.empty((num_slots, layers, *block), dtype=pool.dtype).transpose(0, 1)
