"""`brosd`: start, stop and look at the daemon."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NoReturn

import msgspec
import typer

from bros.brosd import config as configuration
from bros.brosd.config import Config, ConfigError

app = typer.Typer(
    help="Serve real-time and best-effort LLM requests from one model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

NOT_RUNNING = 3  # the exit code that `systemctl status` has for it

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", help="TOML file; without it /etc/bros/config.toml, if there is one."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override one key, e.g. --set server.port=8080. Repeatable."),
]


def fail(message: str, code: int = 1) -> NoReturn:
    """One line on standard error, and out."""
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(code)


def load(file: Path | None, overrides: list[str] | None) -> Config:
    """The configuration, or exit with what is wrong in it."""
    try:
        return configuration.load(file, overrides or ())
    except ConfigError as error:
        fail(str(error), 2)


@app.command()
def start(
    model: Annotated[
        str | None,
        typer.Option(help="The default's name, a local folder, a GGUF file, or org/name."),
    ] = None,
    config: ConfigFile = None,
    set_: Overrides = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Return when ready; log to the state directory.")
    ] = False,
) -> None:
    """Start the daemon. Example: brosd start --detach --set server.port=8080"""
    from bros.brosd.serve import ServeError, serve, serve_detached

    overrides = list(set_ or [])
    if model is not None:
        local = Path(model).expanduser()
        overrides.append(f"model.name={local.resolve() if local.exists() else model}")
    settings = load(config, overrides)
    try:
        if not detach:
            serve(settings)
            return
        arguments = [f"--set={override}" for override in overrides]
        if config is not None:
            arguments.append(f"--config={config.resolve()}")
        pid = serve_detached(settings, arguments)
    except ServeError as error:
        fail(str(error))
    server = settings.server
    typer.echo(
        f"brosd is ready (process {pid}): http://{server.host}:{server.port}, "
        f"log {settings.state / 'brosd.log'}"
    )


@app.command()
def stop(
    config: ConfigFile = None,
    set_: Overrides = None,
    now: Annotated[
        bool, typer.Option("--now", help="Do not wait for requests that are being answered.")
    ] = False,
) -> None:
    """Stop the daemon, after the answers it is giving. Batch jobs go on at the next start."""
    from bros.brosd.serve import ServeError
    from bros.brosd.serve import stop as stop_daemon

    try:
        stopped = stop_daemon(load(config, set_), now=now)
    except ServeError as error:
        fail(str(error))
    typer.echo("brosd has stopped" if stopped else "brosd is not running")


@app.command()
def status(
    config: ConfigFile = None,
    set_: Overrides = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what the daemon does. Exit code 3 if it is not running."""
    from bros.brosd.api import Client, NotRunning
    from bros.cli.render import show_status

    try:
        with Client(load(config, set_).runtime) as client:
            show_status(client.status(), json=json)
    except NotRunning as error:
        fail(str(error), NOT_RUNNING)


@app.command("check-config")
def check_config(config: ConfigFile = None, set_: Overrides = None) -> None:
    """Check the configuration and print every key's value, as --set would take it."""
    tree = msgspec.to_builtins(load(config, set_))
    for section, value in tree.items():
        keys = value.items() if isinstance(value, dict) else [(None, value)]
        for key, setting in keys:
            name = f"{section}.{key}" if key else section
            typer.echo(f"{name} = {msgspec.json.encode(setting).decode()}")


def main() -> None:
    """Entry point of `brosd`."""
    app()


if __name__ == "__main__":
    main()
