"""The values that a field may have, found by its path in the struct that a body is parsed to."""

from __future__ import annotations

import re
from typing import Any

from msgspec import inspect


def allowed_values(kind: Any, path: str) -> list[str]:
    """The literals that the field at `path`, as in `messages[...].role`, may be."""
    places = [inspect.type_info(kind)]
    for name in re.findall(r"[^.\[\]]+", path):
        places = [inner for place in places for inner in _inner(place, name)]
    literals = [place for place in _alternatives(places) if isinstance(place, inspect.LiteralType)]
    return [str(value) for literal in literals for value in literal.values]


def _alternatives(places: list[inspect.Type]) -> list[inspect.Type]:
    """The types themselves: without metadata, and with each member of a union for itself."""
    found: list[inspect.Type] = []
    for place in places:
        match place:
            case inspect.Metadata(type=inner):
                found += _alternatives([inner])
            case inspect.UnionType(types=types):
                found += _alternatives(list(types))
            case _:
                found.append(place)
    return found


def _inner(place: inspect.Type, name: str) -> list[inspect.Type]:
    """The types of a struct's field `name`, or of the items of an array or of an object."""
    found: list[inspect.Type] = []
    for alternative in _alternatives([place]):
        match alternative:
            case inspect.StructType(fields=fields):
                found += [field.type for field in fields if field.encode_name == name]
            case inspect.ListType(item_type=inner) | inspect.DictType(value_type=inner):
                found.append(inner)
    return found
