"""The table is one file with one writer: others can read it, and nothing else."""

import mmap
import subprocess
import sys
from pathlib import Path

import pytest

from bros.kv import BlockTable, BlockTableView, Klass, TableGeometry

GEOMETRY = TableGeometry(num_blocks=6, block_size=4, max_rows=3, max_len=24)


def test_a_reader_sees_what_the_writer_writes(tmp_path: Path) -> None:
    table = BlockTable(tmp_path / "table", GEOMETRY, epoch=7)
    view = BlockTableView(tmp_path / "table")
    table.blocks[2, :3] = [5, 0, 1]
    table.klass[2] = Klass.BE
    table.rt_len[4] = 3
    assert view.geometry == GEOMETRY
    assert view.epoch == 7
    assert view.blocks[2, :3].tolist() == [5, 0, 1]
    assert view.klass_of(2) is Klass.BE
    assert view.rt_len[4] == 3


def test_a_reader_cannot_write(tmp_path: Path) -> None:
    BlockTable(tmp_path / "table", GEOMETRY)
    view = BlockTableView(tmp_path / "table")
    with pytest.raises(ValueError, match="read-only"):
        view.resident_len[0] = 1


def test_a_reader_that_exits_leaves_the_table_to_others(tmp_path: Path) -> None:
    path = tmp_path / "table"
    table = BlockTable(path, GEOMETRY)
    code = "import sys, pathlib, bros.kv as kv; kv.BlockTableView(pathlib.Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)
    assert path.exists()
    table.unlink()
    assert not path.exists()
    table.rt_len[0] = 1  # the mapping outlives the name


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    BlockTable(tmp_path / "table", GEOMETRY)
    with pytest.raises(FileExistsError):
        BlockTable(tmp_path / "table", GEOMETRY)


def test_other_files_and_other_versions_are_refused(tmp_path: Path) -> None:
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"x" * mmap.PAGESIZE)
    with pytest.raises(ValueError, match="not a BROS block table"):
        BlockTableView(garbage)
    table = BlockTable(tmp_path / "table", GEOMETRY)
    table.header[1] = 99
    with pytest.raises(ValueError, match="layout version 99"):
        BlockTableView(tmp_path / "table")
