"""Read the configuration from all its sources, and pass it on to the daemon's children."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from bros.brosd.config.explain import ConfigError, explain
from bros.brosd.config.folders import default_cache_dir, default_runtime_dir, default_state_dir
from bros.brosd.config.sections import Config

ETC_CONFIG = Path("/etc/bros/config.toml")


def load(
    file: Path | None = None,
    overrides: Iterable[str] = (),
    environ: Mapping[str, str] | None = None,
) -> Config:
    """Return the configuration from all its sources. `overrides` are `section.key=value` strings.

    Raise ConfigError, which names the source, the key and the allowed values.
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
        raise ConfigError(f"{source}: {explain(tree, str(error))}") from None
