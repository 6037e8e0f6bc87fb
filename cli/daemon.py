"""`brosd`: start, stop and look at the daemon."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from bros.cli.errors import guarded
from bros.cli.target import ConfigFile, Overrides, target

app = typer.Typer(
    help="Serve real-time and best-effort LLM requests from one model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

NOT_RUNNING = 3  # the exit code of `systemctl status` for a unit that does not run


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
    from bros.brosd.lifecycle import serve, serve_detached

    overrides = list(set_ or [])
    if model is not None:
        local = Path(model).expanduser()
        overrides.append(f"model.name={local.resolve() if local.exists() else model}")
    chosen = target(config, overrides)
    settings = chosen.load()
    if not detach:
        serve(settings, chosen.load)
        return
    arguments = [f"--set={override}" for override in overrides]
    if config is not None:
        arguments.append(f"--config={config.resolve()}")
    pid = serve_detached(settings, arguments)
    server = settings.server
    typer.echo(
        f"brosd is ready (process {pid}): http://{server.host}:{server.port}, "
        f"log {settings.state / 'brosd.log'}"
    )


@app.command()
def reload(config: ConfigFile = None, set_: Overrides = None) -> None:
    """Make the daemon read its configuration again. Example: brosd reload"""
    from bros.brosd.lifecycle import reload as reload_daemon

    reload_daemon(target(config, set_).load())


@app.command()
def stop(
    config: ConfigFile = None,
    set_: Overrides = None,
    now: Annotated[
        bool, typer.Option("--now", help="Do not wait for requests that are being answered.")
    ] = False,
) -> None:
    """Stop the daemon when its answers are finished. Batch jobs go on at the next start.

    Example: brosd stop --now
    """
    from bros.brosd.lifecycle import stop as stop_daemon

    stopped = stop_daemon(target(config, set_).load(), now=now)
    typer.echo("brosd has stopped" if stopped else "brosd is not running")


@app.command()
def status(
    config: ConfigFile = None,
    set_: Overrides = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what the daemon is doing. The exit code is 3 if it is not running.

    Example: brosd status --json
    """
    from bros.brosd.client.client import NotRunning
    from bros.cli.render import show_status

    try:
        with target(config, set_).connect() as client:
            show_status(client.status(), json=json)
    except NotRunning as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(NOT_RUNNING) from None


@app.command("check-config")
def check_config(
    config: ConfigFile = None,
    set_: Overrides = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check the configuration and print each key with its value, in the form that --set takes.

    Example: brosd check-config --config bros.toml
    """
    tree = msgspec.to_builtins(target(config, set_).load())
    if json:
        typer.echo(msgspec.json.format(msgspec.json.encode(tree), indent=2))
        return
    for section, value in tree.items():
        keys = value.items() if isinstance(value, dict) else [(None, value)]
        for key, setting in keys:
            name = f"{section}.{key}" if key else section
            typer.echo(f"{name} = {msgspec.json.encode(setting).decode()}")


key = typer.Typer(help="Make, list and revoke API keys.", no_args_is_help=True)
app.add_typer(key, name="key")
KeyName = Annotated[str, typer.Argument(help="Who uses it.")]


@key.command("create")
def create_key(name: KeyName, config: ConfigFile = None, set_: Overrides = None) -> None:
    """Make an API key and print it; it is shown only once. Example: brosd key create laptop"""
    from bros.brosd.lifecycle import keys_of

    typer.echo(keys_of(target(config, set_).load()).create(name))


@key.command("list")
def list_keys(
    config: ConfigFile = None,
    set_: Overrides = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the names of the API keys. Example: brosd key list"""
    from bros.brosd.lifecycle import keys_of

    known_keys = keys_of(target(config, set_).load()).all
    if json:
        rows = [{"name": known.name, "created_s": known.created_s} for known in known_keys]
        typer.echo(msgspec.json.encode(rows).decode())
        return
    for known in known_keys:
        created = time.strftime("%Y-%m-%d", time.localtime(known.created_s))
        typer.echo(f"{created}  {known.name}")


@key.command("revoke")
def revoke_key(name: KeyName, config: ConfigFile = None, set_: Overrides = None) -> None:
    """Revoke an API key; it is refused from then on. Example: brosd key revoke laptop"""
    from bros.brosd.lifecycle import keys_of

    keys_of(target(config, set_).load()).revoke(name)


def main() -> None:
    """Entry point of `brosd`."""
    raise SystemExit(guarded(app))


if __name__ == "__main__":
    main()
