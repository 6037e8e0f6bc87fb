"""CUDA graphs of iterations that only decode: one launch instead of hundreds from Python.

A graph reads and writes the memory that it was captured with. So each has a batch of its own on
the device, for a fixed number of rows and the longest tables. An iteration takes the next larger
graph, and is padded with rows that belong to no one: one token each, in the pool's spare block.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from bros.workers.attention.device_batch import DeviceBatch, Grid, to_device
from bros.workers.attention.interface import AttentionBatch

log = logging.getLogger(__name__)

Work = Callable[[], None]
Capture = Callable[[Work], Work]  # returns what does the same work again
RunDecodes = Callable[[DeviceBatch], torch.Tensor]  # to logits (rows, vocabulary)


@dataclass(frozen=True)
class GraphLimits:
    """The largest batch that graphs are captured for."""

    max_rows: int
    max_len: int  # tokens of a row
    block_size: int
    spare_block: int


def graph_sizes(max_rows: int) -> list[int]:
    """Return the rows of each graph: few, to be captured in seconds; close, to waste little."""
    steps = [1, 2, 4, *range(8, 64, 8), *range(64, max_rows, 16)]
    return [size for size in steps if size < max_rows] + [max_rows]


def pad(
    ids: np.ndarray, batch: AttentionBatch, size: int, spare_block: int
) -> tuple[np.ndarray, AttentionBatch]:
    """Return the same decodes followed by rows of one token in the spare block, `size` in all."""
    num_rows, width = batch.tables.shape
    extra = (0, size - num_rows)
    tables = np.full((size, width), spare_block, np.int32)
    tables[:num_rows] = batch.tables
    return np.pad(ids, extra), AttentionBatch(
        starts=np.pad(batch.starts, extra),
        counts=np.pad(batch.counts, extra, constant_values=1),
        tables=tables,
        reverse=np.pad(batch.reverse, extra),
        block_size=batch.block_size,
    )


class CudaCapture:
    """A `Capture` whose graphs share their memory, as only one runs at a time."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, work: Work) -> Work:
        compute, aside = torch.cuda.current_stream(), torch.cuda.Stream()
        aside.wait_stream(compute)
        with torch.cuda.stream(aside):
            work()  # compiles kernels and makes libraries' workspaces, which must not be captured
        compute.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            work()
        replay: Work = graph.replay
        return replay


class DecodeGraphs:
    """Graphs of up to `limits.max_rows` decodes. There are none before `capture`."""

    def __init__(self, run: RunDecodes, grid: Grid, limits: GraphLimits, device: str) -> None:
        self._run = run
        self._grid = grid
        self._limits = limits
        self._device = device
        self._graphs: dict[int, tuple[DeviceBatch, Work]] = {}  # by rows, smallest first
        self._logits = torch.empty(0)  # (max_rows, vocabulary): all graphs write there

    @property
    def captured(self) -> bool:
        """Whether there are graphs."""
        return bool(self._graphs)

    @torch.inference_mode()
    def capture(self, capture: Capture) -> None:
        """Capture all sizes, the largest first: the others then fit into its memory.

        No row may be known yet. Raise RuntimeError if the model cannot be captured.
        """
        graphs: dict[int, tuple[DeviceBatch, Work]] = {}
        for size in reversed(graph_sizes(self._limits.max_rows)):
            batch = self._padding_batch(size)
            if not graphs:
                self._logits = self._run(batch).clone()
            graphs[size] = batch, capture(self._work(batch))
        self._graphs = dict(sorted(graphs.items()))
        log.info("event=graphs sizes=%d max_rows=%d", len(graphs), self._limits.max_rows)

    @torch.inference_mode()
    def run(self, ids: np.ndarray, batch: AttentionBatch, last: np.ndarray) -> torch.Tensor | None:
        """Return logits (len(last), vocabulary) after the queries `last`; None if no graph fits.

        The next run overwrites them.
        """
        size = next((size for size in self._graphs if size >= len(ids)), None)
        if size is None or len(ids) > len(batch.counts):
            return None
        static, replay = self._graphs[size]
        static.become(self._to_device(*pad(ids, batch, size, self._limits.spare_block)))
        replay()
        if len(last) == len(ids):
            return self._logits[: len(ids)]
        return self._logits[torch.from_numpy(last).long().to(self._device)]

    def _work(self, batch: DeviceBatch) -> Work:
        def work() -> None:
            self._logits[: len(batch.ids)] = self._run(batch)

        return work

    def _padding_batch(self, size: int) -> DeviceBatch:
        """Return a batch of padding alone, with the widest tables."""
        width = -(-self._limits.max_len // self._limits.block_size)
        none = np.zeros(0, np.int32)
        empty = AttentionBatch(
            starts=none,
            counts=none,
            tables=np.zeros((0, width), np.int32),
            reverse=np.zeros(0, np.bool_),
            block_size=self._limits.block_size,
        )
        return self._to_device(*pad(none, empty, size, self._limits.spare_block))

    def _to_device(self, ids: np.ndarray, batch: AttentionBatch) -> DeviceBatch:
        """Split keys as the longest rows need it: a graph cannot change its launches."""
        return to_device(ids, batch, self._grid, self._device, longest=self._limits.max_len)
