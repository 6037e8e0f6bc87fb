"""Say what is wrong in a configuration, and what would be right."""

from __future__ import annotations

import difflib
from typing import Any

import msgspec

from bros.brosd.config.sections import Config


class ConfigError(ValueError):
    """The configuration is wrong; the text says where, and what would be right."""


def explain(tree: dict[str, Any], message: str) -> str:
    """Return msgspec's message with the key, what is wrong with it, and what is allowed."""
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
