"""An iteration's batch on the device, moved there in one copy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from bros.workers.attention.interface import AttentionBatch

LOW, HIGH = 16, 64  # rows of a tile: of few queries, of many; queries times heads of a group
MAX_SPLITS = 16
TILE_COLUMNS = 5  # row, first query, queries, position of the first, end of the keys


@dataclass(frozen=True)
class Tiles:
    """Work of one launch: `table` (tiles, 5), tiles of `height` rows, keys in `splits` parts."""

    table: torch.Tensor
    height: int
    splits: int


@dataclass(frozen=True)
class Prompts:
    """Prompt chunks whose keys of this iteration are left to another kernel than the tiles'."""

    tokens: torch.Tensor  # (n,), int64: which of the batch
    offsets: torch.Tensor  # (chunks + 1,), int32: where each chunk begins among them
    longest: int  # tokens of the longest chunk


@dataclass(frozen=True)
class DeviceBatch:
    """An `AttentionBatch` on the device. A token's place is block times block size plus slot."""

    ids: torch.Tensor  # (tokens,), int64
    positions: torch.Tensor  # (tokens,), int64
    places: torch.Tensor  # (tokens,), int64
    tables: torch.Tensor  # (rows, blocks), int32
    reverse: torch.Tensor  # (rows,), int32
    tiles: list[Tiles]
    prompts: Prompts | None = None

    def become(self, other: DeviceBatch) -> None:
        """Copy all of `other` here; it has as many tokens and tiles, and no wider tables."""
        self.ids.copy_(other.ids)
        self.positions.copy_(other.positions)
        self.places.copy_(other.places)
        self.tables[:, : other.tables.shape[1]].copy_(other.tables)
        self.reverse.copy_(other.reverse)
        for mine, theirs in zip(self.tiles, other.tiles, strict=True):
            mine.table.copy_(theirs.table)


@dataclass(frozen=True)
class Grid:
    """What tiles depend on besides the batch."""

    group: int  # query heads of a KV head
    kv_heads: int
    processors: int  # of the device: as many programs should run at once, at least
    apart: bool = False  # own keys of prompt chunks are left to another kernel

    def splits(self, num_tiles: int, longest: int, keys_min: int = 128) -> int:
        """Return into how many parts, a power of 2, keys are cut so that the device is full."""
        wanted = min(2 * self.processors // max(1, num_tiles * self.kv_heads), longest // keys_min)
        return 1 << min(wanted, MAX_SPLITS).bit_length() - 1 if wanted > 1 else 1


def tile_tables(batch: AttentionBatch, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Return tiles of rows with few queries, and of the others: two (tiles, 5) arrays."""
    few: list[tuple[int, ...]] = []
    many: list[tuple[int, ...]] = []
    is_chunk = chunk_rows(batch, grid)
    columns = (batch.offsets[:-1], batch.starts, batch.counts, is_chunk)
    for row, (offset, start, count, chunk) in enumerate(
        zip(*(column.tolist() for column in columns), strict=True)
    ):
        tiles, height = (many, HIGH) if chunk else (few, LOW)
        step = max(1, height // grid.group)
        for at in range(0, count, step):
            queries = min(step, count - at)
            end = start if chunk and grid.apart else start + at + queries
            tiles.append((row, offset + at, queries, start + at, end))
    return tuple(np.array(t, np.int32).reshape(-1, TILE_COLUMNS) for t in (few, many))  # type: ignore[return-value]


def chunk_rows(batch: AttentionBatch, grid: Grid) -> np.ndarray:
    """Return which rows have more queries than a low tile: (rows,), bool."""
    chunks: np.ndarray = batch.counts * grid.group > LOW
    return chunks


def to_device(
    ids: np.ndarray, batch: AttentionBatch, grid: Grid, device: str, longest: int | None = None
) -> DeviceBatch:
    """Move a batch in one copy. Keys are split for rows of `longest` tokens, if that is given."""
    if longest is None:
        longest = int((batch.starts + batch.counts).max())
    blocks, slots = batch.places(batch.positions, batch.row_of_query)
    few, many = tile_tables(batch, grid)
    chunk = chunk_rows(batch, grid) & grid.apart
    lengths = batch.counts[chunk]
    pieces = [
        ids,
        batch.positions,
        blocks.astype(np.int64) * batch.block_size + slots,
        batch.tables.astype(np.int64),
        batch.reverse.astype(np.int64),
        few.astype(np.int64),
        many.astype(np.int64),
        np.flatnonzero(chunk[batch.row_of_query]),
        np.concatenate(([0], np.cumsum(lengths))),
    ]
    host = torch.from_numpy(
        np.concatenate([piece.reshape(-1) for piece in pieces]).astype(np.int64)
    )
    if device != "cpu":
        host = host.pin_memory()
    moved = iter(host.to(device, non_blocking=True).split([piece.size for piece in pieces]))
    tokens = [next(moved) for _ in range(3)]
    tables, reverse, few_there, many_there = (next(moved).int() for _ in range(4))
    own, offsets = moved
    splits = grid.splits(len(few), longest)
    launches = [(few_there, LOW, splits), (many_there, HIGH, 1)]
    return DeviceBatch(
        ids=tokens[0],
        positions=tokens[1],
        places=tokens[2],
        tables=tables.reshape(batch.tables.shape),
        reverse=reverse,
        tiles=[
            Tiles(table.reshape(-1, TILE_COLUMNS), max(height, _padded(grid.group)), parts)
            for table, height, parts in launches
            if len(table)
        ],
        prompts=Prompts(own, offsets.int(), int(lengths.max())) if len(lengths) else None,
    )


def _padded(group: int) -> int:
    """Return the least height of a tile: all heads of one query."""
    return 1 << (group - 1).bit_length()
