"""Makes executors: for a CPU, for a CUDA device, and for what a worker process is to be."""

from __future__ import annotations

from pathlib import Path

from bros.brosd.config import Config
from bros.brosd.protocol.runtime_folder import rendezvous_file
from bros.workers.executor.cpu import CpuBackend
from bros.workers.executor.executor import Executor
from bros.workers.identity import Identity
from bros.workers.tensor_parallel import ALONE, Ranks, join


def make_executor(config: Config, model: Path, identity: Identity) -> Executor:
    """Load the model on the process's device, after meeting the other ranks if there are any.

    Raise ValueError if the settings are not for that device.
    """
    ranks = Ranks(identity.rank, identity.size)
    store = rendezvous_file(config.runtime, identity.peer, identity.generation)
    if identity.kind == "cuda":
        return _join_on_cuda(config, model, identity, ranks, store)
    if config.model.dtype == "float16":
        raise ValueError("model.dtype = 'float16' needs a CUDA device: use bfloat16 or float32")
    join(ranks, store, identity.kind)
    return cpu_executor(model, config, ranks)


def cpu_executor(folder: Path, config: Config, ranks: Ranks = ALONE) -> Executor:
    """Load the model of `folder` for the CPU."""
    return Executor(CpuBackend(folder, config, ranks), folder, config, ranks)


def cuda_executor(
    folder: Path, config: Config, ranks: Ranks = ALONE, device: str = "cuda:0"
) -> Executor:
    """Load the model of `folder` on a CUDA device; on "cpu", kernels run in Triton's interpreter.

    Raise ValueError if there is no Triton.
    """
    try:
        from bros.workers.executor.cuda import CudaBackend
    except ImportError as error:
        raise ValueError(f"attention on CUDA needs Triton (pip install triton): {error}") from None
    return Executor(CudaBackend(folder, config, ranks, device), folder, config, ranks)


def _join_on_cuda(
    config: Config, model: Path, identity: Identity, ranks: Ranks, store: Path
) -> Executor:
    import torch

    torch.cuda.set_device(identity.device)
    join(ranks, store, identity.kind)
    return cuda_executor(model, config, ranks, identity.device)
