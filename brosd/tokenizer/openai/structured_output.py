"""`response_format`, `tools` and `tool_choice`: what clients send, and their grammars."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import msgspec
from llguidance import LLMatcher
from msgspec import Meta

from bros.brosd.tokenizer.openai.errors import invalid

MAX_TOOLS = 128
MAX_SCHEMA_BYTES = 256 * 2**10
MAX_SCHEMA_DEPTH = 100  # of objects and lists in each other; llguidance reads no more than 128
MAX_OPTIONAL = 256  # optional properties of one object: any of them may come next
OPEN, CLOSE = "<tool_call>", "</tool_call>"
# One line, spaced as in most training text: a model may never end white space that is free.
JSON_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}

Schema = dict[str, Any]
FunctionName = Annotated[str, Meta(pattern="^[a-zA-Z0-9_.-]{1,64}$")]


class JsonSchema(msgspec.Struct):
    """The `json_schema` of a response format. Every answer follows it, `strict` or not."""

    schema: Schema
    name: str | None = None
    description: str | None = None
    strict: bool | None = None


class ResponseFormat(msgspec.Struct):
    """The form of the answer."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None
    schema: Schema | None = None  # of a "json_object", as llama.cpp has it


class Function(msgspec.Struct):
    """A function that the model may call."""

    name: FunctionName
    description: str | None = None
    parameters: Schema | None = None
    strict: bool | None = None


class Tool(msgspec.Struct):
    """A tool; functions are the only kind."""

    type: Literal["function"]
    function: Function


class NamedFunction(msgspec.Struct):
    name: str


class NamedTool(msgspec.Struct):
    """The one tool that must be called."""

    type: Literal["function"]
    function: NamedFunction


Tools = Annotated[list[Tool], Meta(max_length=MAX_TOOLS)]
ToolChoice = Literal["none", "auto", "required"] | NamedTool


def json_grammar(schema: Schema) -> str:
    """The grammar of the JSON texts that a schema allows. Raise OpenAIError if there is none."""
    with _blame("response_format"):
        text = _bounded("response_format", schema)
        grammar: str = LLMatcher.grammar_from_json_schema(text, overrides=JSON_STYLE)
        return grammar


def _bounded(field: str, schema: Schema) -> str:
    """Return a schema as JSON. Raise OpenAIError about `field` if it is too large or too deep."""
    text = json.dumps(schema)
    if len(text) > MAX_SCHEMA_BYTES:
        raise invalid(field, f"the schema has {len(text)} bytes, more than {MAX_SCHEMA_BYTES}")
    level: list[Any] = [schema]
    for _ in range(MAX_SCHEMA_DEPTH):
        for node in level:
            _check_optional(field, node)
        level = [child for node in level for child in _children(node)]
        if not level:
            return text
    problem = f"the schema is nested too deeply: more than {MAX_SCHEMA_DEPTH} objects and lists"
    raise invalid(field, problem)


def _check_optional(field: str, node: Any) -> None:
    """Raise OpenAIError about `field` if a part of a schema has too many optional properties."""
    if not isinstance(node, dict) or not isinstance(node.get("properties"), dict):
        return
    required = node.get("required")
    named = {str(name) for name in required} if isinstance(required, list) else set()
    num_optional = len(node["properties"].keys() - named)
    if num_optional > MAX_OPTIONAL:
        problem = f"an object has {num_optional} optional properties, more than {MAX_OPTIONAL}"
        raise invalid(field, f"{problem}; list more of them in 'required'")


def _children(node: Any) -> list[Any]:
    """Return the objects and lists that are directly in a part of a schema."""
    inner = node.values() if isinstance(node, dict) else node
    return [child for child in inner if isinstance(child, dict | list)]


@contextmanager
def _blame(field: str) -> Iterator[None]:
    """Raise OpenAIError about `field` for a schema that cannot be made a grammar."""
    try:
        yield
    except (ValueError, RecursionError) as error:
        raise invalid(field, f"no grammar can be made of the schema: {error}") from None


def answer_grammar(wanted: ResponseFormat | None) -> str:
    """The grammar of a response format; empty if any text will do."""
    if wanted is None or wanted.type == "text":
        return ""
    if wanted.type == "json_object":
        return json_grammar(wanted.schema or {"type": "object"})
    if wanted.json_schema is None:
        raise invalid("response_format.json_schema", "is required", "missing_field")
    return json_grammar(wanted.json_schema.schema)


def call_grammar(tools: list[Tool], choice: ToolChoice | None) -> str:
    """The grammar of an answer that must call a tool; empty if it need not call one."""
    match choice:
        case "required":
            named = tools
        case NamedTool(function=NamedFunction(name=name)):
            named = [tool for tool in tools if tool.function.name == name]
            if not named:
                raise invalid("tool_choice", f"there is no tool '{name}' in 'tools'")
        case _:
            return ""
    calls = [_call_schema(tool.function) for tool in named]
    with _blame("tools"):
        schema = _bounded("tools", {"anyOf": calls, "x-guidance": JSON_STYLE})
        lark = f'start: "{OPEN}\\n" call "\\n{CLOSE}"\ncall: %json {schema}\n'
        grammar: str = LLMatcher.grammar_from_lark(lark)
        return grammar


def _call_schema(function: Function) -> Schema:
    return {
        "type": "object",
        "properties": {
            "name": {"const": function.name},
            "arguments": function.parameters or {"type": "object"},
        },
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }
