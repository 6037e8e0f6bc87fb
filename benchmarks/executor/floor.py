"""The least time that a device can take, from the measured speed of memory and of products."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from bros.workers.cpu.linear import has_onednn
from bros.workers.models.shape import ModelShape

READ_BYTES = 2**29
SIDE = 4096
REPEATS = 5


class Floor:
    """The floor of one model in bfloat16 on one device."""

    def __init__(self, folder: Path, device: str) -> None:
        self._device = device
        self._shape = ModelShape.of(folder)
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        self._weights: int = sum(parameter.numel() for parameter in model.parameters())
        embedding: int = model.get_input_embeddings().weight.numel()
        tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
        self._read = self._weights - (0 if tied else embedding)  # of those, a token needs a row
        self._multiplied = self._read - (
            embedding if tied else 0
        )  # a prompt needs one row of logits
        self.bytes_per_s = self._bytes_per_s()
        self.flops = self._flops()

    def decode_ms(self, num_rows: int, context: int) -> float:
        """Return the time to read all weights and all KV once."""
        shape = self._shape
        kv = 2 * shape.num_layers * shape.kv_heads * shape.head_dim * num_rows * context
        return 1000 * 2 * (self._read + kv) / self.bytes_per_s

    def prefill_tokens_per_s(self) -> float:
        """Return the rate at which each weight is multiplied once a token, without attention."""
        return self.flops / (2 * self._multiplied)

    def _bytes_per_s(self) -> float:
        numbers = torch.ones(READ_BYTES // 4, device=self._device)
        return READ_BYTES / self._best_s(numbers.sum)

    def _flops(self) -> float:
        # A CPU that cannot multiply bfloat16 does so in float32, at best.
        exact = self._device == "cpu" and not has_onednn()
        dtype = torch.float32 if exact else torch.bfloat16
        a, b = torch.ones(2, SIDE, SIDE, dtype=dtype, device=self._device)
        return 2 * SIDE**3 / self._best_s(lambda: a @ b)

    def _best_s(self, work: Callable[[], object]) -> float:
        def once() -> float:
            began_s = time.perf_counter()
            work()
            if self._device != "cpu":
                torch.cuda.synchronize()
            return time.perf_counter() - began_s

        once()
        return min(once() for _ in range(REPEATS))
