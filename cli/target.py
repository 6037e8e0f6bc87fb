"""Which daemon a command talks to: the options that name it, and how to name it again."""

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
    typer.Option("--config", help="TOML file; without it /etc/bros/config.toml, if there is one."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override one key, e.g. --set runtime_dir=/run/bros. Repeatable."),
]


@dataclass(frozen=True)
class Target:
    """The daemon that the user's options choose."""

    config: Path | None = None
    overrides: list[str] = field(default_factory=list)

    def load(self) -> Config:
        """The configuration that the daemon was started with, if the options are the same."""
        from bros.brosd.config import load

        return load(self.config, self.overrides)

    def connect(self) -> Client:
        """A client of that daemon; NotRunning if there is none."""
        from bros.brosd.client.client import Client

        return Client(self.load().runtime)

    def model(self, stats: Stats | None) -> str:
        """The name of the model that is served, or will be when the daemon has started."""
        return stats.model if stats else self.load().model.name

    def command(self, *arguments: str) -> str:
        """A `bros` command line for the same daemon, ready to paste."""
        flags = [] if self.config is None else ["--config", str(self.config)]
        for override in self.overrides:
            flags += ["--set", override]
        return shlex.join(["bros", *arguments, *flags])


def target(config: Path | None, overrides: list[str] | None) -> Target:
    """What the two options mean when they are left out."""
    return Target(config, overrides or [])
