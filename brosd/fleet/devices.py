"""Which devices the workers run on. Another process asks torch, which this one never loads."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bros.brosd.config import Config
from bros.brosd.systemd import environ_of_child

NVIDIA_CONTROL = Path("/dev/nvidiactl")  # without it there is no CUDA device to ask for


class DeviceError(RuntimeError):
    """The configured devices are not there; the text says what is, and what to do."""


@dataclass(frozen=True)
class DeviceGroup:
    """The devices of one worker: one process each, several if they share the model."""

    kind: str  # "cpu" or "cuda"
    indices: tuple[int, ...]  # of CUDA devices; on CPU they only count processes

    @property
    def name(self) -> str:
        """As an operator would write it: `cpu`, `cuda:0`, `cuda:0,1`."""
        if self.kind == "cpu":
            return "cpu" if len(self.indices) == 1 else f"cpu x {len(self.indices)}"
        return "cuda:" + ",".join(str(index) for index in self.indices)


def find_groups(config: Config) -> list[DeviceGroup]:
    """Return a group of devices for each worker. Raise DeviceError if there are too few."""
    worker = config.worker
    found = 0 if worker.device == "cpu" else _count_cuda(required=worker.device == "cuda")
    if not found:
        size = worker.tensor_parallel
        return [DeviceGroup("cpu", tuple(range(size))) for _ in range(worker.count or 1)]
    return cuda_groups(config, found)


def cuda_groups(config: Config, found: int) -> list[DeviceGroup]:
    """Return groups of the configured CUDA devices, of which torch has `found`."""
    worker, size = config.worker, config.worker.tensor_parallel
    devices = worker.devices or list(range(found))
    if missing := [index for index in devices if index >= found]:
        raise DeviceError(
            f"worker.devices names {missing[0]}, but torch sees {found}: 0 to {found - 1}"
        )
    if len(set(devices)) < len(devices):
        raise DeviceError(f"worker.devices = {devices} names a device twice")
    most = len(devices) // size
    if (worker.count or 1) > most:
        raise DeviceError(
            f"worker.count = {worker.count or 1} with worker.tensor_parallel = {size} needs "
            f"{(worker.count or 1) * size} CUDA devices, of which there are {len(devices)}"
        )
    starts = range(0, (worker.count or most) * size, size)
    return [DeviceGroup("cuda", tuple(devices[start : start + size])) for start in starts]


def share_cores(config: Config, groups: Sequence[DeviceGroup]) -> Config:
    """Return the configuration with the threads of each process, by default its share of cores."""
    cores = len(os.sched_getaffinity(0))
    share = max(1, cores // sum(len(group.indices) for group in groups))
    threads = config.worker.threads or share
    worker = msgspec.structs.replace(config.worker, threads=threads)
    return msgspec.structs.replace(config, worker=worker)


def _count_cuda(*, required: bool) -> int:
    """Return how many CUDA devices torch can use. It is only asked if the machine has a driver."""
    if not NVIDIA_CONTROL.exists():
        if required:
            raise DeviceError("worker.device = 'cuda', but this machine has no NVIDIA driver")
        return 0
    command = [sys.executable, "-m", "bros.workers.device"]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, env=environ_of_child(), check=False
    )
    count = int(done.stdout or 0) if done.returncode == 0 else 0
    if required and not count:
        raise DeviceError(
            "worker.device = 'cuda', but torch cannot use CUDA: the reason is above; a CPU build "
            "of torch is replaced by 'pip install torch' from an index with CUDA builds"
        )
    return count
