"""Cuts attention's work into tasks for threads.

A task is a tile of up to `TILE` queries of one row and a segment of up to `SEGMENT` of the row's
tokens. Where tiles and segments end depends only on the row.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from bros.workers.attention.interface import AttentionBatch

TILE = 8
SEGMENT = 512  # tokens


@njit(cache=True)
def _blocks(last: Any, block_size: Any) -> Any:
    return last // block_size + 1


@njit(cache=True)
def _cut(starts: Any, counts: Any, reverse: Any, block_size: Any) -> Any:
    step = max(1, SEGMENT // block_size)
    num_tasks = num_merges = 0
    for row in range(len(counts)):
        for at in range(0, counts[row], TILE):
            end = min(at + TILE, counts[row])
            segments = -(-_blocks(starts[row] + end - 1, block_size) // step)
            num_tasks += segments
            num_merges += segments > 1
    tasks, merges = np.empty((num_tasks, 8), np.int32), np.empty((num_merges, 4), np.int32)
    task = merge = part = query = 0
    for row in range(len(counts)):
        for at in range(0, counts[row], TILE):
            count = min(TILE, counts[row] - at)
            position = starts[row] + at
            blocks = _blocks(position + count - 1, block_size)
            several = blocks > step
            if several:
                merges[merge] = query, count, part, -(-blocks // step)
                merge += 1
            for begin in range(0, blocks, step):
                end = min(begin + step, blocks)
                kept = part if several else -1
                tasks[task] = row, query, count, position, int(reverse[row]), begin, end, kept
                task += 1
                part += several
            query += count
    return tasks, merges


def cut(batch: AttentionBatch) -> tuple[np.ndarray, np.ndarray]:
    """Return the tasks of all rows, and merges, both int32.

    Tasks (tasks, 8): row, first query, number, its position, reversed, first block, end of the
    blocks, and where its results wait to be merged, or -1. Merges (tiles with several tasks, 4):
    first query, number, first of its tasks' results, their number.
    """
    # Copies, which are writable: Numba has another type for read-only arrays, and would compile for
    # it when the first request comes.
    starts, counts = (np.array(column, np.int32) for column in (batch.starts, batch.counts))
    tasks, merges = _cut(starts, counts, batch.reverse, batch.block_size)
    return tasks, merges


def balance_tasks(tasks: np.ndarray, num_threads: int) -> np.ndarray:
    """Order tasks so that equal shares, one for each thread, take equally long.

    The longest come first, and are dealt out like cards, back and forth.
    """
    if len(tasks) <= num_threads:
        return tasks
    order = np.argsort(-tasks[:, 2] * (tasks[:, 6] - tasks[:, 5]), kind="stable")
    turns = np.arange(len(tasks)) % (2 * num_threads)
    hands = np.minimum(turns, 2 * num_threads - 1 - turns)
    return tasks[order[np.argsort(hands, kind="stable")]]
