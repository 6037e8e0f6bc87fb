"""Makes the executor of a worker process: on its device, with the other ranks if there are any."""

from __future__ import annotations

from pathlib import Path

from bros.brosd.config import Config
from bros.brosd.protocol.runtime_folder import rendezvous_file
from bros.workers.executor.executor import Executor
from bros.workers.identity import Identity
from bros.workers.tensor_parallel import Ranks, join


def make_executor(config: Config, model: Path, identity: Identity) -> Executor:
    """The model is loaded; the pool is not made before `attach`."""
    ranks = Ranks(identity.rank, identity.size)
    store = rendezvous_file(config.runtime, identity.peer, identity.generation)
    if identity.kind == "cuda":
        return _on_cuda(config, model, identity, ranks, store)
    if config.model.dtype == "float16":
        raise ValueError("model.dtype = 'float16' needs a CUDA device: use bfloat16 or float32")
    join(ranks, store, identity.kind)
    return Executor(model, config, ranks)


def _on_cuda(
    config: Config, model: Path, identity: Identity, ranks: Ranks, store: Path
) -> Executor:
    import torch

    try:
        from bros.workers.executor.cuda import CudaExecutor
    except ImportError as error:
        raise ValueError(f"attention on CUDA needs Triton (pip install triton): {error}") from None
    torch.cuda.set_device(identity.device)
    join(ranks, store, identity.kind)
    return CudaExecutor(model, config, ranks, identity.device)
