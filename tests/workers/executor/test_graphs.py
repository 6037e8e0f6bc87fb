"""Padding of decode iterations for graphs. The graphs themselves are tested in tests/gpu."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bros.workers.attention.device_batch import DeviceBatch, Grid, to_device
from bros.workers.attention.interface import AttentionBatch
from bros.workers.executor.graphs import DecodeGraphs, GraphLimits, graph_sizes

BLOCK = 4
NUM_BLOCKS = 40
GRID = Grid(group=2, kv_heads=1, processors=1)


class Pool:
    """A model whose KV is a token's id. Its logits: the sum of ids so far, and the position."""

    def __init__(self) -> None:
        self.slots = torch.arange(NUM_BLOCKS * BLOCK + BLOCK)  # the last block is the spare one

    def run(self, batch: DeviceBatch) -> torch.Tensor:
        self.slots[batch.places] = batch.ids
        sums = torch.zeros(len(batch.ids), 2, dtype=torch.int64)
        for tiles in batch.tiles:
            for row, first, count, start, _ in tiles.table.tolist():
                assert count == 1, "a decode has one query"
                p = torch.arange(start + 1)
                offset = torch.where(batch.reverse[row] != 0, BLOCK - 1 - p % BLOCK, p % BLOCK)
                blocks = batch.tables[row, p // BLOCK].long()
                sums[first] = torch.stack([self.slots[blocks * BLOCK + offset].sum(), p[-1]])
        return sums


@st.composite
def decodes(draw: st.DrawFn) -> AttentionBatch:
    lengths = draw(st.lists(st.integers(0, 4 * BLOCK - 1), min_size=1, max_size=9))
    width = max(lengths) // BLOCK + 1
    blocks = np.array(draw(st.permutations(range(NUM_BLOCKS))), np.int32)
    return AttentionBatch(
        starts=np.array(lengths, np.int32),
        counts=np.ones(len(lengths), np.int32),
        tables=blocks[: len(lengths) * width].reshape(len(lengths), width),
        reverse=np.array([draw(st.booleans()) for _ in lengths]),
        block_size=BLOCK,
    )


@given(st.lists(decodes(), min_size=1, max_size=4))
@settings(deadline=None)
def test_a_padded_iteration_computes_what_it_would_alone(batches: list[AttentionBatch]) -> None:
    """Several iterations go through the same graphs, and touch no slot of another row."""
    padded, plain = Pool(), Pool()
    room = GraphLimits(max_rows=9, max_len=4 * BLOCK, block_size=BLOCK, spare_block=NUM_BLOCKS)
    graphs = DecodeGraphs(padded.run, GRID, room, "cpu")
    graphs.capture(lambda work: work)
    assert padded.slots[:-BLOCK].equal(plain.slots[:-BLOCK])
    for batch in batches:
        ids = np.arange(1000, 1000 + len(batch.starts), dtype=np.int32)
        expected = plain.run(to_device(ids, batch, GRID, "cpu"))
        for last in (np.arange(len(ids)), np.arange(0, len(ids), 2)):
            logits = graphs.run(ids, batch, last)
            assert logits is not None
            assert logits.equal(expected[last])
        assert padded.slots[:-BLOCK].equal(plain.slots[:-BLOCK])


def test_prompts_and_larger_iterations_have_no_graph() -> None:
    room = GraphLimits(max_rows=2, max_len=8, block_size=BLOCK, spare_block=NUM_BLOCKS)
    graphs = DecodeGraphs(Pool().run, GRID, room, "cpu")
    graphs.capture(lambda work: work)
    for counts in ([1, 2], [1, 1, 1]):
        batch = AttentionBatch(
            starts=np.zeros(len(counts), np.int32),
            counts=np.array(counts, np.int32),
            tables=np.zeros((len(counts), 1), np.int32),
            reverse=np.zeros(len(counts), np.bool_),
            block_size=BLOCK,
        )
        ids = np.zeros(sum(counts), np.int32)
        assert graphs.run(ids, batch, batch.offsets[1:] - 1) is None


def test_sizes_end_at_the_largest_and_waste_little() -> None:
    for most in (1, 3, 64, 200, 256):
        sizes = graph_sizes(most)
        assert sizes == sorted(set(sizes))
        assert sizes[-1] == most
        for rows in range(1, most + 1):
            size = next(size for size in sizes if size >= rows)
            assert size - rows < max(4, 16 if rows > 56 else 8)
