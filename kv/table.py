"""The block table in shared memory: a mapped file with one writer and read-only readers.

It is a plain file on tmpfs, because `multiprocessing.SharedMemory` of Python 3.11 removes the
segment when a process that only attached to it exits. Readers map the file read-only, so the
kernel keeps them from writing.
"""

from __future__ import annotations

import mmap
import os
from dataclasses import fields
from pathlib import Path

import numpy as np

from bros.kv.layout import (
    HEADER_WORDS,
    LAYOUT_VERSION,
    MAGIC,
    NO_ROW,
    Klass,
    TableArrays,
    TableGeometry,
    header_of,
)


class BlockTable(TableArrays):
    """The writer's side; the daemon holds one per worker.

    Raise FileExistsError if the file exists, OSError if there is no memory for it.
    """

    def __init__(self, path: Path, geometry: TableGeometry, epoch: int = 0) -> None:
        self.path = path
        self.geometry = geometry
        num_bytes = 4 * self.num_words(geometry)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, num_bytes)  # a full tmpfs fails here, not in a later write
            self._map = mmap.mmap(fd, num_bytes)
        except BaseException:
            path.unlink()
            raise
        finally:
            os.close(fd)
        super().__init__(np.frombuffer(self._map, dtype=np.int32), geometry)
        self.rt_row[:] = NO_ROW
        self.be_row[:] = NO_ROW
        self.host_slot[:] = NO_ROW
        header = header_of(geometry, epoch)
        self.header[: len(header)] = header

    def unlink(self) -> None:
        """Remove the file; mappings of it stay valid."""
        self.path.unlink(missing_ok=True)


class BlockTableView(TableArrays):
    """A reader's side. Raise ValueError if the file is not a table of this layout version."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            words = np.frombuffer(
                mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), dtype=np.int32
            )
        if len(words) < HEADER_WORDS or words[0] != MAGIC:
            raise ValueError(f"{path} is not a BROS block table")
        if words[1] != LAYOUT_VERSION:
            raise ValueError(f"{path} has layout version {words[1]}, not {LAYOUT_VERSION}")
        self.epoch = int(words[2])
        num_sizes = len(fields(TableGeometry))
        self.geometry = TableGeometry(*(int(word) for word in words[3 : 3 + num_sizes]))
        super().__init__(words, self.geometry)

    def klass_of(self, row: int) -> Klass:
        """Return the class of the row's request."""
        return Klass(int(self.klass[row]))
