"""How much of a CUDA device's memory is left for the KV pool."""

from __future__ import annotations

import logging

import torch

from bros.workers.executor.cuda_runner import DeviceForward
from bros.workers.executor.rehearsal import GREEDY, Rehearsal, draw_like

log = logging.getLogger(__name__)

GIB = 2**30


def peak_bytes(forward: DeviceForward, made_up: Rehearsal, *, draws_all: bool) -> int:
    """Run an iteration; return the most memory that was in use. `draws_all`: for every row."""
    torch.cuda.reset_peak_memory_stats()
    last = made_up.last if draws_all else made_up.last[:1]
    draw_like(forward(made_up.ids, made_up.batch, last), GREEDY)
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated()


def blocks_that_fit(model_bytes: int, block_bytes: int, utilization: float, device: str) -> int:
    """Return how many KV blocks fit into the share `utilization` of the current device's memory.

    `model_bytes` is what weights and iterations take at most, without a pool. Raise ValueError if
    no block fits.
    """
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    others = total - free - torch.cuda.memory_reserved()
    usable = int(total * utilization) - others - model_bytes
    blocks = usable // block_bytes - 1  # one is the pool's spare block
    log.info(
        "event=memory total_gib=%.1f others_gib=%.1f model_gib=%.1f kv_blocks=%d",
        total / GIB,
        others / GIB,
        model_bytes / GIB,
        blocks,
    )
    if blocks < 1:
        raise ValueError(
            f"the model does not fit: it takes {model_bytes / GIB:.1f} GiB of the "
            f"{total / GIB:.1f} GiB of {device}, others {others / GIB:.1f}; raise "
            "worker.gpu_memory_utilization, lower scheduler.max_batch_tokens, or use more "
            "devices (worker.tensor_parallel)"
        )
    return int(blocks)
