"""Iterations on a CUDA device: as one graph if they only decode, otherwise launch by launch."""

from __future__ import annotations

import logging
from typing import cast

import numpy as np
import torch

from bros.workers.attention.device_batch import DeviceBatch, Grid, to_device
from bros.workers.attention.interface import Attention, AttentionBatch
from bros.workers.attention.triton_paged import TritonAttention
from bros.workers.executor.checkpoints import CheckpointCopier, Copied
from bros.workers.executor.cuda_checkpoints import CudaCheckpointCopier
from bros.workers.executor.forward import Forward
from bros.workers.executor.graphs import Capture, CudaCapture, DecodeGraphs

log = logging.getLogger(__name__)


class DeviceForward:
    """Moves a batch to the device and runs the model on it, launch by launch."""

    def __init__(self, model: Forward, attention: TritonAttention, grid: Grid, device: str) -> None:
        self._model = model
        self._attention = attention
        self._grid = grid
        self._device = device

    @torch.inference_mode()
    def __call__(self, ids: np.ndarray, batch: AttentionBatch, last: np.ndarray) -> torch.Tensor:
        """Return logits (len(last), vocabulary) after the queries `last` of the batch."""
        wanted = torch.from_numpy(last).long().to(self._device, non_blocking=True)
        return self._run(to_device(ids, batch, self._grid, self._device), wanted)

    def decode(self, batch: DeviceBatch) -> torch.Tensor:
        """Return the logits of every row of a batch that only decodes."""
        return self._run(batch, torch.arange(len(batch.ids), device=self._device))

    def _run(self, batch: DeviceBatch, last: torch.Tensor) -> torch.Tensor:
        self._attention.prepare(batch)
        return self._model(batch.ids, batch.positions, last, cast(Attention, self._attention))


class CudaRunner:
    """See `Runner`. Until graphs are captured, all iterations run launch by launch."""

    def __init__(
        self,
        forward: DeviceForward,
        copier: CudaCheckpointCopier | CheckpointCopier,
        graphs: DecodeGraphs,
        *,
        wants_graphs: bool,
    ) -> None:
        self._forward = forward
        self._copier = copier
        self._graphs = graphs
        self._wants_graphs = wants_graphs

    @torch.inference_mode()
    def forward(self, ids: np.ndarray, batch: AttentionBatch, last: np.ndarray) -> torch.Tensor:
        logits = self._graphs.run(ids, batch, last)
        return self._forward(ids, batch, last) if logits is None else logits

    def copy(self, log: np.ndarray) -> None:
        self._copier.run(log)

    def copied(self) -> Copied:
        return self._copier.copied()

    def finish_warm_up(self) -> None:
        """Capture graphs, if they are wanted."""
        if self._wants_graphs:
            self.capture_graphs(CudaCapture())

    def capture_graphs(self, capture: Capture) -> None:
        """Let decodes run as graphs, if the model can be captured. No row may be known yet."""
        try:
            self._graphs.capture(capture)
        except RuntimeError as error:
            log.warning("event=graphs_failed reason=%r", " ".join(str(error).split()))

    @property
    def has_graphs(self) -> bool:
        """Whether decodes run as graphs."""
        return self._graphs.captured
