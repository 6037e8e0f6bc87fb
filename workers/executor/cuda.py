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
from bros.workers.attention.device_batch import DeviceBatch, Grid, to_device
from bros.workers.attention.device_pool import DevicePool
from bros.workers.attention.flash import FlashAttention, flash_obstacle
from bros.workers.attention.interface import Attention, AttentionBatch
from bros.workers.attention.triton_paged import TritonAttention
from bros.workers.executor.checkpoints import Copied
from bros.workers.executor.cuda_checkpoints import CudaCheckpointCopier
from bros.workers.executor.executor import Executor
from bros.workers.executor.forward import Forward, GenericForward
from bros.workers.executor.graphs import Capture, CudaCapture, DecodeGraphs, GraphLimits
from bros.workers.tensor_parallel import ALONE, Ranks

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
        self._streamed: CudaCheckpointCopier | None = None
        self._graphs: DecodeGraphs | None = None
        self._blocks = config.kv.num_blocks or 0
        self._attention_class: type[TritonAttention] = TritonAttention
        self._spare_block = 0
        super().__init__(folder, config, ranks)
        if device != "cpu":
            self._attention_class = self._choose_attention()
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
            self._streamed = CudaCheckpointCopier(pool, geometry.host_slots)
        self._view = view
        self._max_len = geometry.max_len

    def warm_up(self) -> None:
        super().warm_up()
        if self._config.worker.cuda_graphs and self._ranks.size == 1 and self._device != "cpu":
            self.make_graphs(CudaCapture())

    def make_graphs(self, capture: Capture) -> None:
        """Let decodes run as graphs, if the model can be captured; no row may be known yet."""
        room = GraphLimits(
            max_rows=self._config.scheduler.max_sequences,
            max_len=self._max_len,
            block_size=self._config.kv.block_size,
            spare_block=self._spare_block,
        )
        graphs = DecodeGraphs(self._decode, self._grid, room, self._device)
        try:
            graphs.capture(capture)
        except RuntimeError as error:
            log.warning("event=graphs_failed reason=%r", " ".join(str(error).split()))
            return
        self._graphs = graphs

    @property
    def has_graphs(self) -> bool:
        """Whether decodes run as graphs."""
        return self._graphs is not None

    def copied(self) -> Copied:
        return self._streamed.copied() if self._streamed else Copied()

    def _run_copies(self, entries: np.ndarray) -> None:
        if self._streamed is not None:
            self._streamed.run(entries)

    def _choose_attention(self) -> type[TritonAttention]:
        """What is configured; `auto` is FlashAttention where it can be used."""
        wanted = self._config.worker.attention
        if wanted not in ("auto", "flash", "triton"):
            raise ValueError(f"worker.attention = {wanted!r} is for the CPU: use auto on CUDA")
        obstacle = flash_obstacle(self._dtype, self.shape.head_dim)
        if wanted == "flash" and obstacle:
            raise ValueError(f"worker.attention = 'flash' is not possible: {obstacle}")
        chosen = TritonAttention if wanted == "triton" or obstacle else FlashAttention
        log.info("event=attention kind=%s device=%s", chosen.__name__, self._device)
        return chosen

    def _make_pool(self, num_blocks: int) -> DevicePool:
        shape, size = self.shape, self._config.kv.block_size
        sizes = (shape.num_layers, num_blocks, size, self._kv_heads, shape.head_dim)
        pool = DevicePool(sizes, self._dtype, self._device)
        self._paged = self._attention_class(pool)
        self._spare_block = pool.spare_block
        return pool

    @torch.inference_mode()
    def _forward(self, ids: np.ndarray, batch: AttentionBatch, last: np.ndarray) -> torch.Tensor:
        if self._graphs is not None:
            logits = self._graphs.run(ids, batch, last)
            if logits is not None:
                return logits
        wanted = torch.from_numpy(last).long().to(self._device, non_blocking=True)
        return self._run_on_device(to_device(ids, batch, self._grid, self._device), wanted)

    def _decode(self, batch: DeviceBatch) -> torch.Tensor:
        """Logits of every row of a batch that decodes."""
        return self._run_on_device(batch, torch.arange(len(batch.ids), device=self._device))

    def _run_on_device(self, batch: DeviceBatch, last: torch.Tensor) -> torch.Tensor:
        if self._paged is None:
            raise RuntimeError("attach() first")
        self._paged.prepare(batch)
        return self._run(batch.ids, batch.positions, last, cast(Attention, self._paged))

    @property
    def _grid(self) -> Grid:
        group = self.shape.num_heads // self.shape.kv_heads
        processors = 1
        if self._device != "cpu":
            processors = torch.cuda.get_device_properties(self._device).multi_processor_count
        apart = issubclass(self._attention_class, FlashAttention)
        return Grid(group, self._kv_heads, processors, apart)

    def _measure_blocks(self) -> int:
        """Blocks that fit beside the weights and the largest iteration, which is run once."""
        size, config = self._config.kv.block_size, self._config
        count = min(config.scheduler.max_batch_tokens, self.shape.max_len)
        self._blocks = -(-count // size)
        self._max_len = count
        pool = self._make_pool(self._blocks)
        pool_bytes = pool.keys.nbytes + pool.values.nbytes
        held = torch.cuda.memory_allocated()
        rows = config.scheduler.max_sequences
        decodes = self._peak_bytes([0] * rows, [1] * rows)
        peak = max(decodes, self._peak_bytes([0], [count])) - pool_bytes
        if config.worker.cuda_graphs:
            peak += decodes - held  # graphs have memory of their own
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

    def _peak_bytes(self, starts: list[int], counts: list[int]) -> int:
        """Memory in use at the height of such an iteration."""
        torch.cuda.reset_peak_memory_stats()
        self.rehearse(starts, counts)
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated()

    @property
    def _kv_bytes_of_rank(self) -> int:
        return self.kv_bytes_per_token * self._kv_heads // self.shape.kv_heads
