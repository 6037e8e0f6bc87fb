"""The configuration: one struct tree, read once. No other module reads files or the environment.

Sources, each overriding the one before: the defaults below, the TOML file, `BROS_*` environment
variables (`BROS_SERVER_PORT` is `server.port`), `--set server.port=8000`.
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
