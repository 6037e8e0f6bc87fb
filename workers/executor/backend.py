"""What the executor asks of a device: a loaded model, then iterations over a KV pool."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch

from bros.kv import TableGeometry
from bros.workers.attention.interface import AttentionBatch
from bros.workers.executor.checkpoints import Copied
from bros.workers.models.shape import ModelShape


class Backend(Protocol):
    """A model on one device, or the part of it that one rank computes. It has no KV pool yet."""

    @property
    def shape(self) -> ModelShape:
        """Sizes of the whole model."""

    @property
    def num_blocks(self) -> int:
        """Blocks that the KV pool can have."""

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of keys and values of one token, in all layers and on all ranks."""

    def attach(self, geometry: TableGeometry) -> Runner:
        """Allocate the KV pool and the host pool that `geometry` describes."""


class Runner(Protocol):
    """Runs iterations of a backend's model over a KV pool."""

    def forward(self, ids: np.ndarray, batch: AttentionBatch, last: np.ndarray) -> torch.Tensor:
        """Return logits (len(last), vocabulary) after the queries `last` of the batch.

        `ids` (queries,) are the tokens. The logits stay on the device, and may be overwritten by
        the next call.
        """

    def copy(self, log: np.ndarray) -> None:
        """Start the copies of `log`, (copies, 4) as in `TableArrays.copies`, in order.

        A later `forward` sees their results, and overwrites nothing that they still have to read.
        """

    def copied(self) -> Copied:
        """Return what the last `copy` took; wait for it if need be."""

    def finish_warm_up(self) -> None:
        """Prepare what needs compiled kernels: called once, before any row is known."""
