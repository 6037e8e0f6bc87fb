"""The backend of a CUDA device: transformers' layers around Triton attention, KV on the device.

It runs on the CPU as well, where Triton's interpreter stands in for its compiler: that is how it
is tested without a GPU.
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from bros.brosd.config import Config
from bros.kv import TableGeometry
from bros.workers.attention.device_batch import Grid
from bros.workers.attention.device_pool import DevicePool
from bros.workers.attention.flash import FlashAttention, flash_obstacle
from bros.workers.attention.triton_paged import TritonAttention
from bros.workers.executor.checkpoints import CheckpointCopier
from bros.workers.executor.cuda_checkpoints import CudaCheckpointCopier
from bros.workers.executor.cuda_memory import blocks_that_fit, peak_bytes
from bros.workers.executor.cuda_runner import CudaRunner, DeviceForward
from bros.workers.executor.forward import GenericForward
from bros.workers.executor.graphs import DecodeGraphs, GraphLimits
from bros.workers.executor.load import LoadedShape, load_model
from bros.workers.executor.rehearsal import Rehearsal
from bros.workers.models.shape import ModelShape
from bros.workers.tensor_parallel import ALONE, Ranks

log = logging.getLogger(__name__)


class CudaBackend:
    """See `Backend`. The pool takes what `worker.gpu_memory_utilization` leaves."""

    def __init__(
        self, folder: Path, config: Config, ranks: Ranks = ALONE, device: str = "cuda:0"
    ) -> None:
        """Load the model; measure how many blocks fit beside it, unless that is configured.

        Raise UnsupportedModel if our attention would compute it wrongly, ValueError if a setting
        is not for CUDA or if the model does not fit.
        """
        if config.worker.quantize != "none":
            raise ValueError("worker.quantize is not supported on CUDA")
        if device != "cpu":
            torch.cuda.set_device(device)
        self._config = config
        self._device = device
        self._ranks = ranks
        model, self._loaded = load_model(folder, config, ranks)
        self._model = GenericForward(model.to(device))
        self._attention: type[TritonAttention] = TritonAttention
        if device != "cpu":
            self._attention = choose_attention(config.worker.attention, self._loaded, device)
        self._grid = _grid(self._loaded, self._attention, device)
        self._num_blocks = config.kv.num_blocks or ranks.least(self._measure_blocks())

    @property
    def shape(self) -> ModelShape:
        return self._loaded.model

    @property
    def kv_bytes_per_token(self) -> int:
        return self._loaded.kv_bytes_per_token

    @property
    def num_blocks(self) -> int:
        return self._num_blocks

    def attach(self, geometry: TableGeometry) -> CudaRunner:
        """See `Backend`. Copies need a CUDA device to be asynchronous; results are the same."""
        pool = self._make_pool(geometry.num_blocks)
        forward = self._forward_over(pool)
        on_cuda = self._device != "cpu"
        copier = CudaCheckpointCopier if on_cuda else CheckpointCopier
        limits = GraphLimits(
            max_rows=self._config.scheduler.max_sequences,
            max_len=geometry.max_len,
            block_size=geometry.block_size,
            spare_block=pool.spare_block,
        )
        return CudaRunner(
            forward,
            copier(pool, geometry.host_slots),
            DecodeGraphs(forward.decode, self._grid, limits, self._device),
            wants_graphs=self._config.worker.cuda_graphs and self._ranks.size == 1 and on_cuda,
        )

    def _forward_over(self, pool: DevicePool) -> DeviceForward:
        return DeviceForward(self._model, self._attention(pool), self._grid, self._device)

    def _make_pool(self, num_blocks: int) -> DevicePool:
        shape, size = self.shape, self._config.kv.block_size
        sizes = (shape.num_layers, num_blocks, size, self._loaded.kv_heads, shape.head_dim)
        return DevicePool(sizes, self._loaded.dtype, self._device)

    def _measure_blocks(self) -> int:
        return blocks_that_fit(
            self._peak_without_pool(),
            self._loaded.kv_bytes_of_rank * self._config.kv.block_size,
            self._config.worker.gpu_memory_utilization,
            self._device,
        )

    def _peak_without_pool(self) -> int:
        """Return the bytes that weights and the largest iterations take, which are run once."""
        config, size = self._config, self._config.kv.block_size
        count = min(config.scheduler.max_batch_tokens, self.shape.max_len)
        num_blocks = -(-count // size)
        pool = self._make_pool(num_blocks)
        pool_bytes = pool.keys.nbytes + pool.values.nbytes
        held = torch.cuda.memory_allocated()
        forward, draws_all = self._forward_over(pool), self._ranks.rank == 0
        rows = config.scheduler.max_sequences
        shapes = ([0] * rows, [1] * rows), ([0], [count])
        made_up = [Rehearsal.of(starts, counts, num_blocks, size) for starts, counts in shapes]
        decodes, prompt = (peak_bytes(forward, one, draws_all=draws_all) for one in made_up)
        peak = max(decodes, prompt) - pool_bytes
        if config.worker.cuda_graphs:
            peak += decodes - held  # graphs have memory of their own
        return peak


def choose_attention(wanted: str, loaded: LoadedShape, device: str) -> type[TritonAttention]:
    """Return what `worker.attention` names; `auto` is FlashAttention where it can be used.

    Raise ValueError if what is wanted cannot be used on the current CUDA device.
    """
    if wanted not in ("auto", "flash", "triton"):
        raise ValueError(f"worker.attention = {wanted!r} is for the CPU: use auto on CUDA")
    obstacle = flash_obstacle(loaded.dtype, loaded.model.head_dim)
    if wanted == "flash" and obstacle:
        raise ValueError(f"worker.attention = 'flash' is not possible: {obstacle}")
    chosen = TritonAttention if wanted == "triton" or obstacle else FlashAttention
    log.info("event=attention kind=%s device=%s", chosen.__name__, device)
    return chosen


def _grid(loaded: LoadedShape, attention: type[TritonAttention], device: str) -> Grid:
    processors = 1
    if device != "cpu":
        processors = torch.cuda.get_device_properties(device).multi_processor_count
    group = loaded.model.num_heads // loaded.model.kv_heads
    return Grid(group, loaded.kv_heads, processors, apart=issubclass(attention, FlashAttention))
