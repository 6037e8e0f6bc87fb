"""Which devices become which workers, and what is said if they are not there."""

import pytest

from bros.brosd.config import load
from bros.brosd.fleet.devices import DeviceError, DeviceGroup, cuda_groups, find_groups, share_cores


def groups(found: int, *settings: str) -> list[tuple[int, ...]]:
    config = load(overrides=[f"worker.{setting}" for setting in settings], environ={})
    return [group.indices for group in cuda_groups(config, found)]


def test_each_cuda_device_is_a_worker() -> None:
    assert groups(3) == [(0,), (1,), (2,)]
    assert groups(4, "devices=[1,3]") == [(1,), (3,)]
    assert groups(4, "count=1") == [(0,)]


def test_tensor_parallel_groups_take_neighbours() -> None:
    assert groups(5, "tensor_parallel=2") == [(0, 1), (2, 3)]
    assert groups(8, "tensor_parallel=2", "devices=[4,5,6,7]", "count=1") == [(4, 5)]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["devices=[0,2]"], "0 to 1"),
        (["devices=[1,1]"], "twice"),
        (["count=3"], "needs 3 CUDA devices"),
        (["tensor_parallel=4"], "needs 4 CUDA devices"),
    ],
)
def test_devices_that_are_not_there(settings: list[str], words: str) -> None:
    with pytest.raises(DeviceError, match=words):
        groups(2, *settings)


def test_cpu_workers_share_the_cores() -> None:
    config = load(
        overrides=["worker.device=cpu", "worker.count=2", "worker.tensor_parallel=64"], environ={}
    )
    found = find_groups(config)
    assert found == [DeviceGroup("cpu", tuple(range(64)))] * 2
    assert share_cores(config, found).worker.threads == 1
