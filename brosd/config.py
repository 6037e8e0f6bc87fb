"""The configuration: one struct tree, read once. No other module reads files or the environment.

Sources, each overriding the one before: the defaults below, the TOML file, `BROS_*` environment
variables (`BROS_SERVER_PORT` is `server.port`), `--set server.port=8000`.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, field

ETC_CONFIG = Path("/etc/bros/config.toml")
DEFAULT_MODEL = "smollm2-135m-instruct"

Count = Annotated[int, Meta(ge=1)]
Share = Annotated[float, Meta(ge=0, lt=1)]
KvMode = Literal["bidirectional", "recompute", "swap"]
Seconds = Annotated[float, Meta(gt=0)]


class ConfigError(ValueError):
    """The configuration is wrong; the text says where, and what would be right."""


class Section(msgspec.Struct, forbid_unknown_fields=True):
    """Base of all sections."""


class ModelConfig(Section):
    """Which model is served. `name`: the default's, a folder, a GGUF file, or `org/name`."""

    name: str = DEFAULT_MODEL
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"  # auto: bfloat16
    max_len: Count | None = None  # tokens of prompt and answer; None: as the model allows


class ServerConfig(Section):
    """The HTTP front door."""

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=1, le=65535)] = 8000
    auth: Literal["auto", "always"] = "auto"  # API keys; auto: unless host is loopback
    max_body_bytes: Count = 4 * 2**20
    max_requests_per_key: Count = 1024  # at a time; more get a 429
    send_timeout_s: Seconds = 60.0  # for a client that does not read its stream
    header_timeout_s: Seconds = 15.0  # of a request, from its first byte or the connection
    body_timeout_s: Seconds = 60.0  # for a request's body; for each piece of an upload
    drain_timeout_s: Seconds = 30.0


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
    says what there is. Either gives way to `num_blocks` if that is set.

    `mode` says what a best-effort request loses to a real-time one: tail blocks, as many as needed
    (bidirectional), all its KV (recompute, as in vLLM), or all of it to host memory (swap).
    """

    block_size: Annotated[int, Meta(ge=1, le=256)] = 16
    pool_bytes: Count = 2**30
    num_blocks: Count | None = None
    rt_reserve: Share = 0.02  # share of blocks BE leaves free
    mode: KvMode = "bidirectional"  # how BE makes place
    share: bool = True  # tails of both classes in one block
    prefix_cache: bool = True  # full blocks serve other requests with the same prefix
    rt_cached: Share = 0.25  # share of blocks whose cached RT prefixes BE does not evict
    host_bytes: Annotated[int, Meta(ge=0)] = 2**30  # checkpoints of BE's KV; 0: none
    copy_bytes_per_step: Count = 16 * 2**20  # bound on checkpoint copies of one iteration
    low_water: Share = 0.05  # share of free blocks below which BE's tails are saved ahead


class SchedulerConfig(Section):
    """What runs in an iteration."""

    policy: Literal["bros", "fcfs", "priority", "round-robin", "tgi"] = "bros"
    max_sequences: Annotated[int, Meta(ge=1, le=4096)] = 64
    max_batch_tokens: Annotated[int, Meta(ge=16)] = 256
    be_floor: Share = 0.05  # of the time is best-effort's, however much real-time there is
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
    """When a process counts as dead, and how often it may die before the daemon gives up."""

    start_timeout_s: Seconds = 300.0
    hang_timeout_s: Seconds = 30.0
    step_timeout_s: Seconds = 120.0
    max_restarts: Count = 5  # within `restart_window_s`
    restart_window_s: Seconds = 60.0


class LogConfig(Section):
    """Logging to standard error, one line per event."""

    level: Literal["debug", "info", "warning", "error"] = "info"


class TracesConfig(Section):
    """OpenTelemetry traces over HTTP, as protobuf: `endpoint` is such as
    http://127.0.0.1:4318/v1/traces; empty: none. Headers and such: `OTEL_EXPORTER_OTLP_*`.
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


def load(
    file: Path | None = None,
    overrides: Iterable[str] = (),
    environ: Mapping[str, str] | None = None,
) -> Config:
    """The configuration from all its sources. `overrides` are `section.key=value` strings.

    Raises ConfigError, which names the source, the key and the allowed values.
    """
    environ = os.environ if environ is None else environ
    source = str(file or ETC_CONFIG)
    tree = _read_toml(file)
    _check(tree, source)
    for key, text in _from_environ(environ):
        _set(tree, key, text, f"environment variable BROS_{'_'.join(key).upper()}")
    for override in overrides:
        name, equals, text = override.partition("=")
        if not equals:
            raise ConfigError(f"--set {override}: expected section.key=value")
        _set(tree, tuple(name.strip().split(".")), text.strip(), f"--set {name}")
    config = _check(tree, source)
    return msgspec.structs.replace(
        config,
        state_dir=config.state_dir or default_state_dir(environ),
        runtime_dir=config.runtime_dir or default_runtime_dir(environ),
        cache_dir=config.cache_dir or default_cache_dir(environ),
    )


def save(config: Config, path: Path) -> None:
    """Write a resolved configuration for the processes of this daemon."""
    path.write_bytes(msgspec.json.encode(config))


def restore(path: Path) -> Config:
    """Read what `save` wrote."""
    return msgspec.json.decode(path.read_bytes(), type=Config)


# What a running daemon takes over when it is told to reload; all else needs a restart.
LIVE = ("slo", "log", "server.max_requests_per_key")


def reloaded(old: Config, new: Config) -> tuple[Config, list[str]]:
    """`old` with the live keys of `new`, and the keys that differ but are not live."""
    config = old
    ignored = []
    for key in _keys(new):
        section, _, name = key.rpartition(".")
        before, after = (getattr(at, section) if section else at for at in (config, new))
        if getattr(before, name) == getattr(after, name):
            continue
        if key not in LIVE and section not in LIVE:
            ignored.append(key)
        else:
            changed = msgspec.structs.replace(before, **{name: getattr(after, name)})
            config = msgspec.structs.replace(config, **{section: changed})
    return config, ignored


def _keys(config: Config) -> Iterable[str]:
    for name in config.__struct_fields__:
        section = getattr(config, name)
        if isinstance(section, Section):
            yield from (f"{name}.{key}" for key in section.__struct_fields__)
        else:
            yield name


def default_state_dir(environ: Mapping[str, str]) -> str:
    if folder := environ.get("STATE_DIRECTORY"):
        return folder
    if os.geteuid() == 0:
        return "/var/lib/bros"
    return str(_home(environ, "XDG_STATE_HOME", ".local/state") / "bros")


def default_runtime_dir(environ: Mapping[str, str]) -> str:
    if folder := environ.get("RUNTIME_DIRECTORY"):
        return folder
    if os.geteuid() == 0:
        return "/run/bros"
    if folder := environ.get("XDG_RUNTIME_DIR"):
        return str(Path(folder) / "bros")
    return f"/tmp/bros-{os.geteuid()}"  # its owner and mode are checked before use


def default_cache_dir(environ: Mapping[str, str]) -> str:
    if folder := environ.get("CACHE_DIRECTORY"):
        return folder
    if os.geteuid() == 0 and "XDG_CACHE_HOME" not in environ:
        return "/var/cache/bros"
    return str(_home(environ, "XDG_CACHE_HOME", ".cache") / "bros")


def user_dir(environ: Mapping[str, str] | None = None) -> Path:
    """What belongs to a person and not to a daemon: chat history, saved conversations."""
    environ = os.environ if environ is None else environ
    return _home(environ, "XDG_STATE_HOME", ".local/state") / "bros"


def _home(environ: Mapping[str, str], variable: str, fallback: str) -> Path:
    return Path(environ.get(variable) or Path.home() / fallback)


def _read_toml(file: Path | None) -> dict[str, Any]:
    path = file or ETC_CONFIG
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError:
        if file is None:
            return {}
        raise ConfigError(f"{file}: no such configuration file") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from None


def _from_environ(environ: Mapping[str, str]) -> Iterable[tuple[tuple[str, ...], str]]:
    for name, text in sorted(environ.items()):
        if not name.startswith("BROS_"):
            continue
        key = name.removeprefix("BROS_").lower()
        section, _, rest = key.partition("_")
        if key in Config.__struct_fields__:
            yield (key,), text
        elif section in Config.__struct_fields__ and rest:
            yield (section, rest), text


def _set(tree: dict[str, Any], key: tuple[str, ...], text: str, source: str) -> None:
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # `--set model.name=./folder` needs no quotes
    *sections, last = key
    at = tree
    for section in sections:
        at = at.setdefault(section, {})
        if not isinstance(at, dict):
            raise ConfigError(f"{source}: {section} is not a section")
    at[last] = value
    try:
        _check(tree, source)
    except ConfigError:
        if isinstance(value, str):
            raise
        at[last] = text  # a name that looks like a number, for a key that takes text
        try:
            _check(tree, source)
        except ConfigError:
            at[last] = value
            _check(tree, source)


def _check(tree: dict[str, Any], source: str) -> Config:
    try:
        return msgspec.convert(tree, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{source}: {_explain(tree, str(error))}") from None


def _explain(tree: dict[str, Any], message: str) -> str:
    """Turn msgspec's message and path into: key, what is wrong, what is allowed."""
    problem, _, path = message.partition(" - at `$")
    key = [part for part in path.strip("`.").split(".") if part]
    section: Any = Config
    for part in key[:-1] if "unknown field" not in problem else key:
        section = _types(section)[part]
    if "unknown field" in problem:
        name = problem.split("`")[1]
        known = [*section.__struct_fields__]
        close = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {close[0]}?" if close else f"known keys: {', '.join(known)}"
        return f"unknown key {'.'.join([*key, name])}; {hint}"
    value: Any = tree
    for part in key:
        value = value[part]
    return f"{'.'.join(key)} = {value!r}: {problem}{_allowed(_types(section)[key[-1]])}"


def _types(section: Any) -> dict[str, Any]:
    return {f.name: f.type for f in msgspec.structs.fields(section)}


def _allowed(kind: Any) -> str:
    info = msgspec.inspect.type_info(kind)
    if isinstance(info, msgspec.inspect.LiteralType):
        return f" (allowed: {', '.join(str(value) for value in info.values)})"
    return ""
