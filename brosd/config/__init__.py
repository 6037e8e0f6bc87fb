"""The configuration: one tree of structs, from a file, the environment and the command line.

Each source overrides the one before: defaults, the TOML file, `BROS_*` environment variables
(`BROS_SERVER_PORT` is `server.port`), `--set server.port=8000`.
"""

from bros.brosd.config.explain import ConfigError
from bros.brosd.config.folders import user_dir
from bros.brosd.config.loading import load, restore, save
from bros.brosd.config.reload import reloaded
from bros.brosd.config.sections import (
    DEFAULT_MODEL,
    BatchConfig,
    Config,
    KvConfig,
    KvMode,
    LogConfig,
    ModelConfig,
    PolicyName,
    SchedulerConfig,
    ServerConfig,
    SloConfig,
    SupervisorConfig,
    TracesConfig,
    WorkerConfig,
)

__all__ = [
    "DEFAULT_MODEL",
    "BatchConfig",
    "Config",
    "ConfigError",
    "KvConfig",
    "KvMode",
    "LogConfig",
    "ModelConfig",
    "PolicyName",
    "SchedulerConfig",
    "ServerConfig",
    "SloConfig",
    "SupervisorConfig",
    "TracesConfig",
    "WorkerConfig",
    "load",
    "reloaded",
    "restore",
    "save",
    "user_dir",
]
