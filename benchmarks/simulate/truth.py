"""How long an iteration truly takes on a GPU, from first principles: FLOPs, bytes, links.

The scheduler never sees this module: it learns from the times that come out of it, as it does from
those of a real worker. Peak rates are the makers' (dense bf16); a stated share of each is achieved.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bros.brosd.protocol.wire import Slo

Ints = npt.NDArray[np.int64]

BYTES = 2  # of a weight, an activation or a key; all are bf16
BANDWIDTH_SHARE = 0.80  # of the memory's peak; large copies and GEMVs reach 80 to 90 %
ATTENTION_SHARE = 0.35  # of the peak FLOP/s in prefill attention over paged keys
LINK_SHARE = 0.75  # of PCIe and NVLink
HIDING = 0.5  # of an iteration's compute time that copies over PCIe can hide behind
LAUNCH_S = 2.5e-3  # per iteration: launches (graphs replayed), messages, planning
SEQUENCE_S = 8e-6  # per sequence: inputs, sampling, detokenizing
ALLREDUCE_S = 8e-6  # latency of one all-reduce
MEMORY_SHARE = 0.90  # of the GPU's memory that is used
SCRATCH_BYTES = 2e9  # per GPU: activations, graphs
NOISE = 0.03  # sigma of the lognormal noise on an iteration


@dataclass(frozen=True)
class Gpu:
    """Peak rates of one GPU: FLOP/s (dense bf16) and bytes/s; links count one direction."""

    name: str
    flops: float
    linear_share: float  # of `flops` that large matrix products achieve
    bandwidth: float
    memory: float  # bytes
    pcie: float
    nvlink: float


@dataclass(frozen=True)
class Model:
    """A dense decoder with gated MLP. Sizes are the published ones."""

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    inner: int
    vocab: int

    @property
    def linear_params(self) -> int:
        """Parameters that each token is multiplied by."""
        attention = self.hidden * self.head_dim * 2 * (self.heads + self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.inner)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights; embedding and head count separately."""
        return BYTES * (self.linear_params + 2 * self.vocab * self.hidden)

    @property
    def kv_bytes_per_token(self) -> int:
        return 2 * BYTES * self.layers * self.kv_heads * self.head_dim

    @property
    def activation_bytes_per_token(self) -> int:
        """Bytes that linear layers read and write besides weights."""
        per_layer = 6 * self.hidden + 2 * self.head_dim * self.kv_heads + 3 * self.inner
        return BYTES * self.layers * per_layer


@dataclass(frozen=True)
class Work:
    """One iteration: chunks of `counts[i]` tokens after `starts[i]`, and its copies in bytes."""

    starts: Ints
    counts: Ints
    num_samples: int
    copy_bytes: int = 0


@dataclass(frozen=True)
class Pair:
    """A model on `num_gpus` GPUs, and the traffic that suits it.

    `rt_rate` (requests/s of the conversation trace) takes about a third of the pair's time.
    """

    name: str
    gpu: Gpu
    num_gpus: int
    model: Model
    slo: Slo
    rt_rate: float
    max_sequences: int = 256
    max_batch_tokens: int = 2048

    @property
    def kv_tokens(self) -> int:
        """Tokens that fit into the memory that weights and scratch leave."""
        per_gpu = MEMORY_SHARE * self.gpu.memory - SCRATCH_BYTES
        return int((self.num_gpus * per_gpu - self.model.weight_bytes) / self._kv_bytes)

    @property
    def _kv_bytes(self) -> int:
        return self.model.kv_bytes_per_token

    def iteration_s(self, work: Work) -> tuple[float, float]:
        """Return seconds of compute, and of copies that nothing hides, without noise."""
        num_tokens = int(work.counts.sum())
        compute_s = LAUNCH_S + SEQUENCE_S * len(work.counts)
        compute_s += self._linear_s(num_tokens, work.num_samples)
        compute_s += self._attention_s(work.starts, work.counts)
        compute_s += self._link_s(num_tokens)
        copy_s = work.copy_bytes / (self.num_gpus * LINK_SHARE * self.gpu.pcie)
        return compute_s, max(0.0, copy_s - HIDING * compute_s)

    def _linear_s(self, num_tokens: int, num_samples: int) -> float:
        model = self.model
        if num_tokens == 0:
            return 0.0
        head = model.vocab * model.hidden
        flops = 2 * (model.linear_params * num_tokens + head * num_samples)
        num_bytes = BYTES * (model.linear_params + head)
        num_bytes += model.activation_bytes_per_token * num_tokens
        return max(flops / (self._flops * self.gpu.linear_share), num_bytes / self._bandwidth)

    def _attention_s(self, starts: Ints, counts: Ints) -> float:
        """Decodes read their keys; prompt chunks read or compute, whichever takes longer."""
        decodes = counts == 1
        read_s = float((starts[decodes] + 1).sum()) * self._kv_bytes / self._bandwidth
        starts, counts = starts[~decodes], counts[~decodes]
        pairs = counts * (starts + (counts + 1) / 2)  # pairs of a query and a key
        width = self.model.layers * self.model.heads * self.model.head_dim
        compute_s = 4 * width * pairs / (self._flops * ATTENTION_SHARE)
        memory_s = (starts + counts) * self._kv_bytes / self._bandwidth
        return read_s + float(np.maximum(compute_s, memory_s).sum())

    def _link_s(self, num_tokens: int) -> float:
        """Two all-reduces per layer of a tensor-parallel model."""
        if self.num_gpus == 1 or num_tokens == 0:
            return 0.0
        share = 2 * (self.num_gpus - 1) / self.num_gpus
        num_bytes = share * num_tokens * self.model.hidden * BYTES
        once_s = ALLREDUCE_S + num_bytes / (LINK_SHARE * self.gpu.nvlink)
        return 2 * self.model.layers * once_s

    @property
    def _flops(self) -> float:
        return self.num_gpus * self.gpu.flops

    @property
    def _bandwidth(self) -> float:
        return self.num_gpus * self.gpu.bandwidth * BANDWIDTH_SHARE


GIB = 2**30
A100 = Gpu("A100-80G", 312e12, 0.60, 2.04e12, 80 * GIB, 32e9, 300e9)
H100 = Gpu("H100-80G", 989e12, 0.50, 3.35e12, 80 * GIB, 64e9, 450e9)

LLAMA_2_13B = Model("Llama-2-13B", 40, 5120, 40, 40, 128, 13824, 32000)
LLAMA_3_8B = Model("Llama-3-8B", 32, 4096, 32, 8, 128, 14336, 128256)
LLAMA_3_70B = Model("Llama-3-70B", 80, 8192, 64, 8, 128, 28672, 128256)
QWEN_14B = Model("Qwen2.5-14B", 48, 5120, 40, 8, 128, 13824, 152064)

PAIRS = {
    pair.name: pair
    for pair in (
        Pair("llama-2-13b/a100", A100, 1, LLAMA_2_13B, Slo(ttft_s=1.0, tpot_s=0.1), 1.0),
        Pair("qwen2.5-14b/a100", A100, 1, QWEN_14B, Slo(ttft_s=1.0, tpot_s=0.1), 1.5),
        Pair("llama-3-8b/h100", H100, 1, LLAMA_3_8B, Slo(ttft_s=0.5, tpot_s=0.05), 5.5),
        Pair("llama-3-70b/4xh100", H100, 4, LLAMA_3_70B, Slo(ttft_s=1.0, tpot_s=0.1), 3.0),
    )
}
