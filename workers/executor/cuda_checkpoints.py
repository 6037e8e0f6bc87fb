"""Checkpoint copies on CUDA: a pinned host pool, and a copy stream beside the compute stream.

A block to be saved is first copied into a staging block on the compute stream. Attention may then
overwrite the pool while the copy stream moves the staging block to the host. A block to be restored
comes in on the copy stream, and the compute stream waits for it. Staging blocks and host slots are
reused in stream order.
"""

from __future__ import annotations

import numpy as np
import torch

from bros.kv import CopyKind
from bros.workers.attention.device_pool import DevicePool
from bros.workers.executor.checkpoints import Copied

NUM_STAGES = 16  # blocks on their way, each direction


class CudaCheckpointCopier:
    """A host pool of `num_slots` blocks beside `pool`; see `CheckpointCopier`."""

    def __init__(self, pool: DevicePool, num_slots: int) -> None:
        self._pool = pool
        layers, _, *block = pool.keys.shape
        self._host = torch.empty(
            (num_slots, 2, layers, *block), dtype=pool.keys.dtype, pin_memory=num_slots > 0
        )
        stages = (NUM_STAGES, 2, layers, *block)
        self._stages = torch.empty(stages, dtype=pool.keys.dtype, device=pool.keys.device)
        self._free = [torch.cuda.Event() for _ in range(NUM_STAGES)]  # when a stage is free again
        self._next = 0
        self._copies = torch.cuda.Stream()
        self._began = torch.cuda.Event(enable_timing=True)
        self._ended = torch.cuda.Event(enable_timing=True)
        self._num_bytes = 0

    def run(self, log: np.ndarray) -> None:
        """Start the copies of `log`, (copies, 4) as in `TableArrays.copies`, in order."""
        self._num_bytes = 0
        if not len(log):
            return
        self._began.record(self._copies)
        for kind, source, target, slots in log.tolist():
            if kind == CopyKind.SAVE:
                self._save(source, target)
            elif kind == CopyKind.RESTORE:
                self._restore(source, target, slots)
            else:
                self._write(
                    target, slots, (self._pool.keys[:, source], self._pool.values[:, source])
                )
            self._num_bytes += self._host.element_size() * self._stages[0].numel()
        self._ended.record(self._copies)

    def copied(self) -> Copied:
        """Wait for the last `run`; return what it took on the copy stream."""
        if not self._num_bytes:
            return Copied()
        self._ended.synchronize()
        return Copied(self._num_bytes, self._began.elapsed_time(self._ended) / 1000)

    def _save(self, block: int, slot: int) -> None:
        """Save the whole block: slots of RT in it do no harm on the host."""
        stage, free = self._next_stage()
        compute = torch.cuda.current_stream()
        compute.wait_event(free)
        stage[0].copy_(self._pool.keys[:, block])
        stage[1].copy_(self._pool.values[:, block])
        staged = compute.record_event()
        with torch.cuda.stream(self._copies):
            self._copies.wait_event(staged)
            self._host[slot].copy_(stage, non_blocking=True)
            free.record(self._copies)

    def _restore(self, slot: int, block: int, slots: int) -> None:
        stage, free = self._next_stage()
        compute = torch.cuda.current_stream()
        with torch.cuda.stream(self._copies):
            self._copies.wait_event(free)
            stage.copy_(self._host[slot], non_blocking=True)
            arrived = self._copies.record_event()
        compute.wait_event(arrived)
        self._write(block, slots, (stage[0], stage[1]))
        free.record(compute)

    def _write(self, block: int, slots: int, parts: tuple[torch.Tensor, torch.Tensor]) -> None:
        """Write the last `slots` slots only: the others may be RT's."""
        first = self._pool.block_size - slots
        self._pool.keys[:, block, first:] = parts[0][:, first:]
        self._pool.values[:, block, first:] = parts[1][:, first:]

    def _next_stage(self) -> tuple[torch.Tensor, torch.cuda.Event]:
        index = self._next
        self._next = (index + 1) % NUM_STAGES
        return self._stages[index], self._free[index]
