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
        text = json.dumps(schema)
        grammar: str = LLMatcher.grammar_from_json_schema(text, overrides=JSON_STYLE)
        return grammar


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
        schema = json.dumps({"anyOf": calls, "x-guidance": JSON_STYLE})
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
