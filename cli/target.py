"""The daemon that a command talks to: the options that choose it, and how to repeat them."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from bros.brosd.client.client import Client, Stats
    from bros.brosd.config import Config

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", help="TOML file. Default: /etc/bros/config.toml, if it exists."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override one key, e.g. --set runtime_dir=/run/bros. Repeatable."),
]


@dataclass(frozen=True)
class Target:
    """The daemon that the user chose with options."""

    config: Path | None = None
    overrides: list[str] = field(default_factory=list)

    def load(self) -> Config:
        """Return the configuration that the daemon has, if it was started with the same options."""
        from bros.brosd.config import load

        return load(self.config, self.overrides)

    def connect(self) -> Client:
        """Return a client of that daemon. Raise NotRunning if there is none."""
        from bros.brosd.client.client import Client

        return Client(self.load().runtime)

    def model(self, stats: Stats | None) -> str:
        """Return the name of the model that is served, or that a starting daemon will serve."""
        return stats.model if stats else self.load().model.name

    def command(self, *arguments: str) -> str:
        """Return a `bros` command line for the same daemon, ready to paste."""
        flags = [] if self.config is None else ["--config", str(self.config)]
        for override in self.overrides:
            flags += ["--set", override]
        return shlex.join(["bros", *arguments, *flags])


def target(config: Path | None, overrides: list[str] | None) -> Target:
    """Return the daemon that the two options choose, which may both be left out."""
    return Target(config, overrides or [])
