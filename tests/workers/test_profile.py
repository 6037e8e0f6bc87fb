"""A worker's profile is measured on the real executor, kept, and understood by the cost model."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bros.brosd.config import Config, load
from bros.brosd.scheduling.cost_model import CostModel, IterationLoad
from bros.kv import BlockTable, BlockTableView, TableGeometry
from bros.workers.executor.executor import Executor
from bros.workers.factory import cpu_executor
from bros.workers.profile import profile, shapes


@dataclass
class Counting:
    """An executor that counts its iterations."""

    executor: Executor
    rehearsed: list[tuple[list[int], list[int]]] = field(default_factory=list)

    @property
    def num_blocks(self) -> int:
        return self.executor.num_blocks

    @property
    def max_len(self) -> int:
        return self.executor.max_len

    def rehearse(self, starts: list[int], counts: list[int]) -> None:
        self.rehearsed.append((starts, counts))
        self.executor.rehearse(starts, counts)


def config_of(folder: Path, *settings: str) -> Config:
    small = ["kv.num_blocks=24", "scheduler.max_batch_tokens=64", *settings]
    return load(overrides=[*small, f"cache_dir={folder}"], environ={})


@pytest.fixture(scope="module")
def loaded(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Executor:
    folder = tmp_path_factory.mktemp("profile")
    config = config_of(folder)
    executor = cpu_executor(model_dir, config)
    BlockTable(folder / "table", TableGeometry(24, config.kv.block_size, 8, executor.max_len))
    executor.attach(BlockTableView(folder / "table"))
    executor.warm_up()  # as a worker does before: compiling is not to be measured
    return executor


@pytest.fixture
def executor(loaded: Executor) -> Counting:
    return Counting(loaded)


def test_it_is_measured_once(executor: Counting, model_dir: Path, tmp_path: Path) -> None:
    config = config_of(tmp_path)
    samples = profile(executor, model_dir, config)
    planned = list(shapes(executor, config))
    assert [(s.starts, s.counts) for s in samples] == planned[: len(samples)]
    assert {tuple(s.counts) for s in samples} >= {(1,), (32,)}
    assert all(0 < s.seconds < 60 for s in samples)
    runs = len(executor.rehearsed)
    assert profile(executor, model_dir, config) == samples
    assert len(executor.rehearsed) == runs
    profile(executor, model_dir, config_of(tmp_path, "worker.threads=1"))  # another device
    assert len(executor.rehearsed) > runs


def test_a_profile_that_cannot_be_read_is_measured_again(
    executor: Counting, model_dir: Path, tmp_path: Path
) -> None:
    config = config_of(tmp_path)
    samples = profile(executor, model_dir, config)
    (kept,) = (tmp_path / "profiles").iterdir()
    kept.write_bytes(kept.read_bytes()[:-9])
    again = profile(executor, model_dir, config)
    assert again[0].counts == samples[0].counts
    assert kept.read_bytes().endswith(b"]")


def test_no_iteration_is_too_large_for_the_worker(executor: Counting, tmp_path: Path) -> None:
    for starts, counts in shapes(executor, config_of(tmp_path)):
        assert sum(counts) <= 64
        longest = max(start + count for start, count in zip(starts, counts, strict=True))
        assert len(starts) * -(-longest // 16) <= 24


def test_the_cost_model_learns_from_it(executor: Counting, model_dir: Path, tmp_path: Path) -> None:
    model = CostModel()
    for sample in profile(executor, model_dir, config_of(tmp_path)):
        load_ = IterationLoad()
        for start, count in zip(sample.starts, sample.counts, strict=True):
            load_.add(start, count)
        model.learn(load_, sample.seconds)
    model.fit()
    assert model.chunk_s(0, 64) > model.chunk_s(0, 16) > 0
