"""Compiled kernels of versions that are no longer used are removed."""

from __future__ import annotations

import os
import time
from pathlib import Path

from bros.workers.version import UNUSED_S, compiled_folder


def make(cache: Path, name: str, age_s: float) -> Path:
    folder = cache / "numba" / name
    folder.mkdir(parents=True)
    (folder / "kernel.nbi").touch()
    os.utime(folder, (0, time.time() - age_s))
    return folder


def test_those_long_unused_are_removed(tmp_path: Path) -> None:
    make(tmp_path, "old", UNUSED_S + 60)
    make(tmp_path, "recent", 60)
    own = compiled_folder(tmp_path)
    assert {folder.name for folder in own.parent.iterdir()} == {own.name, "recent"}


def test_a_start_counts_as_use(tmp_path: Path) -> None:
    own = compiled_folder(tmp_path)
    os.utime(own, (0, 0))
    assert compiled_folder(tmp_path).stat().st_mtime > time.time() - 60


def test_it_works_without_a_cache(tmp_path: Path) -> None:
    (tmp_path / "numba").touch()
    compiled_folder(tmp_path)
