"""The sections of the configuration: their keys, with types, bounds and defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, field

DEFAULT_MODEL = "smollm2-135m-instruct"

Count = Annotated[int, Meta(ge=1)]
Share = Annotated[float, Meta(ge=0, lt=1)]
PolicyName = Literal["bros", "fcfs", "priority", "round-robin", "tgi"]
KvMode = Literal["bidirectional", "recompute", "swap"]
Seconds = Annotated[float, Meta(gt=0)]


class Section(msgspec.Struct, forbid_unknown_fields=True):
    """Base of all sections."""


class ModelConfig(Section):
    """Which model is served. `name` is the default's, a folder, a GGUF file, or `org/name`."""

    name: str = DEFAULT_MODEL
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"  # auto: bfloat16
    max_len: Count | None = None  # tokens of prompt and answer; None: as the model allows


class ServerConfig(Section):
    """The HTTP front door."""

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=1, le=65535)] = 8000
    auth: Literal["auto", "always"] = "auto"  # API keys; auto: unless host is loopback
    allowed_hosts: list[str] = []  # more names that clients without keys may call it by
    cors_origins: list[str] = []  # whose web pages may use it, like https://chat.example
    max_body_bytes: Count = 4 * 2**20
    max_unfinished_bytes: Count = 256 * 2**20  # of all bodies that are still coming
    max_unfinished_bytes_per_client: Count = 64 * 2**20  # a client: a key, else an address
    max_requests_per_key: Count = 1024  # at a time, or per address without keys; more get a 429
    send_timeout_s: Seconds = 60.0  # for a client that does not read what it asked for
    header_timeout_s: Seconds = 15.0  # of a request, from its first byte or the connection
    body_timeout_s: Seconds = 60.0  # for a request's body; for each 256 KiB of an upload
    drain_timeout_s: Seconds = 30.0

    @property
    def url(self) -> str:
        """Where clients on this machine reach it."""
        return f"http://{self.host}:{self.port}"


class WorkerConfig(Section):
    """The executors: each has a model and a KV pool, on CPU or on CUDA devices.

    `device` auto is CUDA if torch can use it. Each worker takes `tensor_parallel` devices, so that
    on CUDA there are as many workers as that allows, unless `count` says how many.
    `quantize` int8 rounds weights: faster for few sequences at once, at a small loss of quality.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    devices: list[Annotated[int, Meta(ge=0)]] = []  # which CUDA devices; none: all
    count: Annotated[int, Meta(ge=0)] = 0  # 0: one per device or group of devices; on CPU one
    tensor_parallel: Count = 1  # processes, each on a device of its own, that share a model
    threads: Annotated[int, Meta(ge=0)] = 0  # per process; 0: an equal share of the cores
    attention: Literal["auto", "numba", "torch", "flash", "triton"] = "auto"  # the last two: CUDA
    quantize: Literal["none", "int8"] = "none"
    gpu_memory_utilization: Annotated[float, Meta(gt=0, le=1)] = 0.9  # weights, KV and all else
    cuda_graphs: bool = True  # iterations that only decode are one launch


class KvConfig(Section):
    """The KV cache. `pool_bytes` is per worker on CPU; on CUDA, `worker.gpu_memory_utilization`
    says how much there is. `num_blocks`, if it is set, overrides both.

    `mode` says what a best-effort request loses to a real-time one: tail blocks, as many as needed
    (bidirectional), all its KV (recompute, as in vLLM), or all of it to host memory (swap).
    """

    block_size: Annotated[int, Meta(ge=1, le=256)] = 16
    pool_bytes: Count = 2**30
    num_blocks: Count | None = None
    rt_reserve: Share = 0.02  # share of blocks BE leaves free
    mode: KvMode = "bidirectional"  # how BE makes room
    share: bool = True  # tails of both classes in one block
    prefix_cache: bool = True  # full blocks serve other requests with the same prefix
    rt_cached: Share = 0.25  # share of blocks whose cached RT prefixes BE does not evict
    host_bytes: Annotated[int, Meta(ge=0)] = 2**30  # checkpoints of BE's KV; 0: none
    copy_bytes_per_step: Count = 16 * 2**20  # bound on the checkpoint copies of one iteration
    low_water: Share = 0.05  # share of free blocks below which BE's tails are saved ahead


class SchedulerConfig(Section):
    """What runs in an iteration."""

    policy: PolicyName = "bros"
    max_sequences: Annotated[int, Meta(ge=1, le=4096)] = 64
    max_batch_tokens: Annotated[int, Meta(ge=16)] = 256
    be_floor: Share = (
        0.05  # share of the time that best-effort gets, however much real-time there is
    )
    max_waiting: Count = 1024  # real-time requests waiting beyond this get a 429


class SloConfig(Section):
    """Objectives of real-time requests that name none."""

    ttft_s: Seconds = 0.5
    tpot_s: Seconds = 0.08


class BatchConfig(Section):
    """Batch jobs. `window` lines are in the scheduler at any time."""

    window: Count = 64
    max_file_bytes: Count = 2 * 2**30  # of one upload to /v1/files
    retention_s: Seconds = 30 * 86_400.0  # ended jobs and uploaded files are deleted after this
    min_free_bytes: Annotated[int, Meta(ge=0)] = 64 * 2**20  # of disk, kept for results


class SupervisorConfig(Section):
    """When a process counts as dead, and how often it may die until the daemon gives up."""

    start_timeout_s: Seconds = 300.0
    hang_timeout_s: Seconds = 30.0
    step_timeout_s: Seconds = 120.0
    max_restarts: Count = 5  # within `restart_window_s`
    restart_window_s: Seconds = 60.0


class LogConfig(Section):
    """Logging to standard error, one line per event."""

    level: Literal["debug", "info", "warning", "error"] = "info"


class TracesConfig(Section):
    """OpenTelemetry traces over HTTP, as protobuf, to an `endpoint` like
    http://127.0.0.1:4318/v1/traces; none if it is empty. `OTEL_EXPORTER_OTLP_*` sets headers.
    """

    endpoint: str = ""
    service: str = "bros"  # the spans' service.name


class Config(Section):
    """The whole tree. The three folders have defaults for root, for users and for systemd."""

    model: ModelConfig = field(default_factory=ModelConfig)
    server: ServerConfig = field(default_factory=ServerConfig)
    worker: WorkerConfig = field(default_factory=WorkerConfig)
    kv: KvConfig = field(default_factory=KvConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    slo: SloConfig = field(default_factory=SloConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    supervisor: SupervisorConfig = field(default_factory=SupervisorConfig)
    log: LogConfig = field(default_factory=LogConfig)
    traces: TracesConfig = field(default_factory=TracesConfig)
    state_dir: str = ""
    runtime_dir: str = ""
    cache_dir: str = ""

    @property
    def state(self) -> Path:
        """Batch jobs and logs; survives restarts."""
        return Path(self.state_dir)

    @property
    def runtime(self) -> Path:
        """Sockets and block tables; mode 0700."""
        return Path(self.runtime_dir)

    @property
    def cache(self) -> Path:
        """Models and compiled kernels; can be deleted at any time."""
        return Path(self.cache_dir)
