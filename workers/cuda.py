"""The executor of a CUDA device: transformers' layers around Triton attention, KV on the device.

Runs on the CPU as well, where Triton's interpreter stands in for its compiler: so it is tested.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import cast

import numpy as np
import torch

from bros.brosd.config import Config
from bros.kv import BlockTableView
from bros.workers.attention.device_batch import Grid, to_device
from bros.workers.attention.device_pool import DevicePool
from bros.workers.attention.interface import Attention, AttentionBatch
from bros.workers.attention.triton_paged import TritonAttention
from bros.workers.checkpoints import Copied
from bros.workers.executor import Executor
from bros.workers.forward import Forward, GenericForward
from bros.workers.parallel import ALONE, Ranks
from bros.workers.streams import StreamedCheckpoints

log = logging.getLogger(__name__)

GIB = 2**30


class CudaExecutor(Executor):
    """See `Executor`. The pool takes what `worker.gpu_memory_utilization` leaves."""

    def __init__(
        self, folder: Path, config: Config, ranks: Ranks = ALONE, device: str = "cuda:0"
    ) -> None:
        self._device = device
        if device != "cpu":
            torch.cuda.set_device(device)
        self._paged: TritonAttention | None = None
        self._streamed: StreamedCheckpoints | None = None
        self._blocks = config.kv.num_blocks or 0
        super().__init__(folder, config, ranks)
        if not self._blocks:
            self._blocks = ranks.least(self._measure_blocks())

    def _make_forward(self, model: torch.nn.Module) -> Forward:
        if self._config.worker.quantize != "none":
            raise ValueError("worker.quantize is not supported on CUDA")
        return GenericForward(model.to(self._device))

    @property
    def num_blocks(self) -> int:
        return self._blocks

    def attach(self, view: BlockTableView) -> None:
        geometry = view.geometry
        pool = self._make_pool(geometry.num_blocks)
        if self._device != "cpu":
            self._streamed = StreamedCheckpoints(pool, geometry.host_slots)
        self._view = view
        self._max_len = geometry.max_len

    def copied(self) -> Copied:
        return self._streamed.copied() if self._streamed else Copied()

    def _run_copies(self, entries: np.ndarray) -> None:
        if self._streamed is not None:
            self._streamed.run(entries)

    def _make_pool(self, num_blocks: int) -> DevicePool:
        shape, size = self.shape, self._config.kv.block_size
        sizes = (shape.num_layers, num_blocks, size, self._kv_heads, shape.head_dim)
        pool = DevicePool(sizes, self._dtype, self._device)
        self._paged = TritonAttention(pool)
        return pool

    @torch.inference_mode()
    def _forward(self, ids: np.ndarray, batch: AttentionBatch, last: np.ndarray) -> torch.Tensor:
        if self._paged is None:
            raise RuntimeError("attach() first")
        moved = to_device(ids, batch, self._grid, self._device)
        self._paged.prepare(moved)
        wanted = torch.from_numpy(last).long().to(self._device, non_blocking=True)
        return self._run(moved.ids, moved.positions, wanted, cast(Attention, self._paged))

    @property
    def _grid(self) -> Grid:
        group = self.shape.num_heads // self.shape.kv_heads
        processors = 1
        if self._device != "cpu":
            processors = torch.cuda.get_device_properties(self._device).multi_processor_count
        return Grid(group, self._kv_heads, processors)

    def _measure_blocks(self) -> int:
        """Blocks that fit beside the weights and the largest iteration, which is run once."""
        size, config = self._config.kv.block_size, self._config
        count = min(config.scheduler.max_batch_tokens, self.shape.max_len)
        self._blocks = -(-count // size)
        self._max_len = count
        pool = self._make_pool(self._blocks)
        pool_bytes = pool.keys.nbytes + pool.values.nbytes
        torch.cuda.reset_peak_memory_stats()
        self.rehearse([0], [count])
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated() - pool_bytes
        self._paged = None
        del pool
        torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info()
        others = total - free - torch.cuda.memory_reserved()
        usable = int(total * config.worker.gpu_memory_utilization) - others - peak
        blocks = usable // (self._kv_bytes_of_rank * size) - 1  # one is the pool's spare block
        log.info(
            "event=memory total_gib=%.1f others_gib=%.1f model_gib=%.1f kv_blocks=%d",
            total / GIB,
            others / GIB,
            peak / GIB,
            blocks,
        )
        if blocks < 1:
            raise ValueError(
                f"the model does not fit: it takes {peak / GIB:.1f} GiB of the {total / GIB:.1f} "
                f"GiB of {self._device}, others {others / GIB:.1f}; raise "
                "worker.gpu_memory_utilization, lower scheduler.max_batch_tokens, or use more "
                "devices (worker.tensor_parallel)"
            )
        return int(blocks)

    @property
    def _kv_bytes_of_rank(self) -> int:
        return self.kv_bytes_per_token * self._kv_heads // self.shape.kv_heads
