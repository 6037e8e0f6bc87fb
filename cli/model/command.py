"""The options of `bros model`."""

from __future__ import annotations

from typing import Annotated

import typer

from bros.cli.complete import models
from bros.cli.target import ConfigFile, Overrides, target

model = typer.Typer(help="List, fetch and remove models.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Name = Annotated[str, typer.Argument(help="The default's name, a GGUF file, or org/name.")]
Local = Annotated[str, typer.Argument(help="As 'bros model list' shows it.", autocompletion=models)]


@model.command("list")
def list_(json: Json = False, config: ConfigFile = None, set_: Overrides = None) -> None:
    """List the models that can be served without fetching. Example: bros model list --json"""
    from bros.cli.model.store import list_models

    list_models(target(config, set_), json=json)


@model.command()
def pull(name: Name, config: ConfigFile = None, set_: Overrides = None) -> None:
    """Fetch a model. Example: bros model pull smollm2-135m-instruct"""
    from bros.cli.model.store import pull as run

    run(target(config, set_), name)


@model.command()
def show(
    name: Local, json: Json = False, config: ConfigFile = None, set_: Overrides = None
) -> None:
    """Describe a model. Example: bros model show smollm2-135m-instruct"""
    from bros.cli.model.store import show as run

    run(target(config, set_), name, json=json)


@model.command("rm")
def remove(name: Local, config: ConfigFile = None, set_: Overrides = None) -> None:
    """Delete a model's files. Example: bros model rm HuggingFaceTB/SmolLM2-360M-Instruct"""
    from bros.cli.model.store import remove as run

    run(target(config, set_), name)
