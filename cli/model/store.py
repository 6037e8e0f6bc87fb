"""List, fetch, describe and remove models, whether a daemon runs or not."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
from rich.table import Table

from bros.brosd.client.client import NotRunning
from bros.cli.errors import InputError
from bros.cli.render import duration, print_json, print_view, size
from bros.cli.target import Target

DETAILS = (
    "model_type",
    "num_hidden_layers",
    "hidden_size",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
    "max_position_embeddings",
)


class LocalModel(msgspec.Struct):
    """What `bros.workers.models.store` reports about a model."""

    name: str
    source: str
    folder: str
    size_bytes: int
    modified_s: float


def list_models(target: Target, *, json: bool) -> None:
    """Print the models that can be served without fetching, one per row."""
    models, served = local_models(target), _served(target)
    if json:
        rows = [msgspec.structs.asdict(model) for model in models]
        print_json([{**row, "served": row["name"] == served} for row in rows])
        return
    if not models:
        print("no models: fetch one with 'bros model pull NAME'")
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("model", no_wrap=True)
    table.add_column("source")
    table.add_column("size", justify="right")
    table.add_column("age", justify="right")
    table.add_column("")
    for model in models:
        age = duration(max(0.0, time.time() - model.modified_s))
        mark = "served" if model.name == served else ""
        table.add_row(model.name, model.source, size(model.size_bytes), age, mark)
    print_view(table)


def pull(target: Target, name: str) -> None:
    """Fetch a model, and convert it if necessary."""
    from bros.brosd.lifecycle import fetch_model

    config = target.load()
    config.model.name = name
    folder = fetch_model(config)
    print(f"{name} is in {folder}")
    print(f"serve it:  brosd start --model {name}", file=sys.stderr)


def show(target: Target, name: str, *, json: bool) -> None:
    """Print what is known about a model."""
    model = _find(target, name)
    details = _details(Path(model.folder))
    if json:
        print_json({**msgspec.structs.asdict(model), **details})
        return
    table = Table.grid(padding=(0, 2))
    rows = {"model": name, "source": model.source, "size": size(model.size_bytes), **details}
    for key, value in {**rows, "folder": model.folder}.items():
        shown = f"{value:,}" if isinstance(value, int) else str(value)
        table.add_row(key.replace("_", " "), shown)
    print_view(table)


def remove(target: Target, name: str) -> None:
    """Delete a model's files, unless it is being served."""
    if name == _served(target):
        raise InputError(f"{name} is being served: stop the daemon first, with 'brosd stop'")
    model = _find(target, name)
    _store(target, "rm", name)
    print(f"{name} is removed: {size(model.size_bytes)}")


def _find(target: Target, name: str) -> LocalModel:
    models = local_models(target)
    for model in models:
        if model.name == name:
            return model
    known = ", ".join(model.name for model in models) or "none"
    raise InputError(
        f"{name} is not on this machine (there are: {known}): "
        f"fetch it with 'bros model pull {name}'"
    )


def _details(folder: Path) -> dict[str, Any]:
    """Return what the model's own configuration says."""
    config = msgspec.json.decode((folder / "config.json").read_bytes())
    architecture = ", ".join(config.get("architectures") or ["unknown"])
    found = {key: config[key] for key in DETAILS if key in config}
    return {"architecture": architecture, **found}


def local_models(target: Target) -> list[LocalModel]:
    """Return the models that can be served without fetching."""
    return msgspec.json.decode(_store(target), type=list[LocalModel])


def _store(target: Target, *command: str) -> bytes:
    """Run `bros.workers.models.store` and return its output; only workers know how models lie."""
    arguments = [
        sys.executable,
        "-m",
        "bros.workers.models.store",
        str(target.load().cache),
        *command,
    ]
    environ = {**os.environ, "PYTHONSAFEPATH": "1"}
    done = subprocess.run(arguments, capture_output=True, env=environ, check=False)
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise InputError(lines[-1].removeprefix("error: ") if lines else "the store failed")
    return done.stdout


def _served(target: Target) -> str | None:
    """Return the model of the running daemon; None if no daemon runs."""
    try:
        with target.connect() as client:
            stats = client.status()
    except NotRunning:
        return None
    return stats.model if stats else None
