"""JSON bytes to a typed struct, or an `OpenAIError` that names the wrong field or byte."""

from __future__ import annotations

import json
import re
from typing import Any, TypeVar

import msgspec

from bros.brosd.tokenizer.openai.allowed_values import allowed_values
from bros.brosd.tokenizer.openai.errors import OpenAIError, invalid

T = TypeVar("T")

_syntax_decoder = msgspec.json.Decoder(msgspec.Raw)
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


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
    """
    try:
        found = _find_illegal(json.loads(text, parse_constant=_NotANumber), "")
    except json.JSONDecodeError as error:
        byte = len(text[: error.pos].encode())
        return _malformed(f"{error.msg[0].lower()}{error.msg[1:]} (byte {byte})")
    except (RecursionError, ValueError):
        return _malformed(problem)
    return invalid(*found) if found else _malformed(problem)


def _find_illegal(value: Any, path: str) -> tuple[str, str] | None:
    """The first field whose value JSON cannot express, and why."""
    match value:
        case _NotANumber():
            return path or "body", f"{value.literal} is no JSON number"
        case str() if _LONE_SURROGATE.search(value):
            return path or "body", "has half of a surrogate pair, which is no Unicode text"
        case dict() if any(_LONE_SURROGATE.search(key) for key in value):
            return path or "body", "has a name with half of a surrogate pair"
        case dict():
            items = [(f"{path}.{key}" if path else key, item) for key, item in value.items()]
        case list():
            items = [(f"{path}[{index}]", item) for index, item in enumerate(value)]
        case _:
            return None
    return next((found for key, item in items if (found := _find_illegal(item, key))), None)
