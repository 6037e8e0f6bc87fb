"""JSON bytes to a typed struct, or an `OpenAIError` that names the wrong field or byte."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, TypeVar

import msgspec

from bros.brosd.tokenizer.openai.allowed_values import allowed_values
from bros.brosd.tokenizer.openai.errors import OpenAIError, invalid

T = TypeVar("T")

MAX_EXPLAINED_CHARS = 64 * 1024

_syntax_decoder = msgspec.json.Decoder(msgspec.Raw)
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_PLACE = re.compile(r"\(byte ([0-9]+)\)")
_LITERAL = re.compile(b"NaN|Infinity")


class _NotANumber:
    """Stands for a NaN or Infinity literal while the text around it is searched."""

    def __init__(self, literal: str) -> None:
        self.literal = literal


def parse(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """Decode a body. Raise OpenAIError (400) if it is malformed or not what `decoder` expects."""
    try:
        text = body.decode()
        try:
            return decoder.decode(text)
        except msgspec.ValidationError as error:
            _syntax_decoder.decode(text)  # is it JSON at all? If not, no field is at fault
            raise _mistyped(str(error), decoder.type) from None
    except UnicodeDecodeError as error:
        raise _malformed(f"not valid UTF-8 (byte {error.start})") from None
    except RecursionError:
        raise _malformed("nested too deeply") from None
    except msgspec.DecodeError as error:
        raise _explain(text, str(error)) from None


def _malformed(problem: str) -> OpenAIError:
    return OpenAIError(400, f"The body is no JSON: {problem}", param="body", code="invalid_json")


def _mistyped(message: str, kind: Any) -> OpenAIError:
    """msgspec's message and path as a field and what is wrong with it."""
    problem, _, path = message.partition(" - at `$")
    field = path.rstrip("`").lstrip(".")
    problem = problem.replace(" | null", "").replace("`", "")
    if problem.startswith("Object missing required field "):
        name = problem.rsplit(" ", 1)[1]
        return invalid(f"{field}.{name}" if field else name, "is required", "missing_field")
    problem = problem[0].lower() + problem[1:]
    if problem.startswith("invalid enum value"):
        problem += f"; allowed: {', '.join(allowed_values(kind, field))}"
    return invalid(field or "body", problem)


def _explain(text: str, problem: str) -> OpenAIError:
    """What is wrong with malformed JSON; Python's parser explains more of it than msgspec's.

    It accepts NaN, Infinity and lone surrogates, which are not JSON, so look for them afterwards.
    Long bodies are not parsed again, since other requests wait meanwhile.
    """
    if len(text) > MAX_EXPLAINED_CHARS:
        return _explain_place(text, problem)
    try:
        found = _find_illegal(json.loads(text, parse_constant=_NotANumber))
    except json.JSONDecodeError as error:
        byte = len(text[: error.pos].encode())
        return _malformed(f"{error.msg[0].lower()}{error.msg[1:]} (byte {byte})")
    except (RecursionError, ValueError):
        return _malformed(problem)
    if found is None:
        return _malformed(problem)
    path, illegal = found
    return invalid("".join(reversed(path)).removeprefix(".") or "body", illegal)


def _explain_place(text: str, problem: str) -> OpenAIError:
    """What is wrong at the byte that msgspec names; nothing else is looked at."""
    place = _PLACE.search(problem)
    if place:
        byte = int(place[1])
        literal = _LITERAL.match(text.encode(), byte)
        if literal:
            return invalid("body", f"{literal[0].decode()} is no JSON number (byte {byte})")
    return _malformed(problem)


def _find_illegal(value: Any) -> tuple[list[str], str] | None:
    """The first value that JSON cannot express: the path to it from its end, and why.

    The path is put together only on the way back: it would be long for each of many values.
    """
    match value:
        case _NotANumber():
            return [], f"{value.literal} is no JSON number"
        case str() if _LONE_SURROGATE.search(value):
            return [], "has half of a surrogate pair, which is no Unicode text"
        case dict() if any(_LONE_SURROGATE.search(key) for key in value):
            return [], "has a name with half of a surrogate pair"
    for key, item in _items(value):
        if found := _find_illegal(item):
            found[0].append(f".{key}" if isinstance(value, dict) else f"[{key}]")
            return found
    return None


def _items(value: Any) -> Iterable[tuple[str | int, Any]]:
    """The values within a value, with their names or numbers."""
    match value:
        case dict():
            return value.items()
        case list():
            return enumerate(value)
        case _:
            return ()
