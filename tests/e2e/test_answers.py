"""Choices, log probabilities, JSON and tool calls, through the client of OpenAI."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import (
    ChatCompletionMessageParam,
    ChatCompletionNamedToolChoiceParam,
    ChatCompletionToolParam,
)
from openai.types.shared_params import ResponseFormatJSONSchema

from harness import FLOAT32, MakeServer, Server, wait_until

QUESTION: list[ChatCompletionMessageParam] = [
    {"role": "user", "content": "What is the capital of France?"}
]
# The default model's template has no tools; this one writes tools, calls and results as Qwen does.
TEMPLATE = """{%- for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}{% for c in m.tool_calls or [] %}<tool_call>
{{ c.function | tojson }}
</tool_call>{% endfor %}<|im_end|>
{% endfor %}{% if tools %}<|im_start|>system
Tools: {{ tools | tojson }}<|im_end|>
{% endif %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
PERSON_FORMAT: ResponseFormatJSONSchema = {
    "type": "json_schema",
    "json_schema": {"name": "person", "schema": PERSON},
}
WEATHER: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Paris", "London"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(scope="module")
def folder(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the default model with a template that has tools."""
    folder = tmp_path_factory.mktemp("model") / "tools"
    shutil.copytree(model_dir, folder, copy_function=os.link)
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


@pytest.fixture(scope="module")
def server(make_server: MakeServer, folder: Path) -> Server:
    return make_server(f"model.name={folder}", *FLOAT32)


@pytest.fixture(scope="module")
def client(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def model(client: openai.OpenAI) -> str:
    return client.models.list().data[0].id


def test_choices_differ_and_repeat(client: openai.OpenAI, model: str) -> None:
    asked: dict[str, Any] = {
        "model": model,
        "prompt": "My name is",
        "max_tokens": 8,
        "n": 3,
        "seed": 5,
    }
    answer = client.completions.create(**asked)
    texts = [choice.text for choice in answer.choices]
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len(set(texts)) > 1
    assert [choice.text for choice in client.completions.create(**asked).choices] == texts
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 24
    assert answer.usage.prompt_tokens < 8
    streamed = ["", "", ""]
    for chunk in client.completions.create(**asked, stream=True):
        streamed[chunk.choices[0].index] += chunk.choices[0].text
    assert streamed == texts


def test_log_probabilities_of_a_chat(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.create(
        model=model, messages=QUESTION, temperature=0, logprobs=True, top_logprobs=3, max_tokens=6
    )
    assert answer.usage is not None
    assert answer.choices[0].logprobs is not None
    content = answer.choices[0].logprobs.content
    assert content is not None
    assert len(content) == answer.usage.completion_tokens
    text = b"".join(bytes(token.bytes or []) for token in content).decode()
    assert text.startswith(answer.choices[0].message.content or "?")
    for token in content:
        assert token.token == token.top_logprobs[0].token  # greedy
        assert token.logprob == pytest.approx(token.top_logprobs[0].logprob)
        probabilities = [math.exp(top.logprob) for top in token.top_logprobs]
        assert len(probabilities) == 3
        assert probabilities == sorted(probabilities, reverse=True)
        assert sum(probabilities) <= 1.001


def test_log_probabilities_of_a_completion(client: openai.OpenAI, model: str) -> None:
    asked: dict[str, Any] = {
        "model": model,
        "prompt": "One, two,",
        "max_tokens": 6,
        "temperature": 0,
    }
    told = client.completions.create(**asked, logprobs=2).choices[0]
    assert told.logprobs is not None
    tokens, offsets = told.logprobs.tokens, told.logprobs.text_offset
    assert tokens is not None
    assert offsets is not None
    assert "".join(tokens) == told.text
    assert [told.text[offset:][: len(token)] for offset, token in zip(offsets, tokens, strict=True)]
    pieces = list(client.completions.create(**asked, logprobs=2, stream=True))
    streamed = [token for piece in pieces for token in piece.choices[0].logprobs.tokens]
    assert streamed == tokens


def test_an_answer_in_json(client: openai.OpenAI, model: str) -> None:
    for seed in range(3):
        answer = client.chat.completions.create(
            model=model,
            messages=QUESTION,
            response_format=PERSON_FORMAT,
            max_tokens=80,
            temperature=1.5,
            seed=seed,
        )
        person = json.loads(answer.choices[0].message.content or "")
        assert set(person) == {"name", "age"}
        assert 0 <= person["age"] <= 150
        assert answer.choices[0].finish_reason == "stop"
    free = client.chat.completions.create(
        model=model,
        messages=QUESTION,
        response_format={"type": "json_object"},
        max_tokens=40,
        temperature=0,
    )
    assert (free.choices[0].message.content or "").startswith("{")


@pytest.mark.slow
def test_a_grammar_outlives_a_killed_worker(server: Server, model: str) -> None:
    """The next worker restores the grammar's state from the tokens so far."""
    shape = {"type": "array", "items": {"enum": [1, 2]}, "minItems": 30, "maxItems": 30}
    body = {
        "model": model,
        "messages": QUESTION,
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": shape}},
        "max_tokens": 120,
        "temperature": 1.0,
        "seed": 1,
        "stream": True,
    }
    pieces: list[str] = []
    with httpx.stream(
        "POST", f"{server.url}/v1/chat/completions", json=body, timeout=120.0
    ) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                chunk = json.loads(line.removeprefix("data: "))
                assert "error" not in chunk, chunk
                pieces.append(chunk["choices"][0]["delta"].get("content") or "")
                if len(pieces) == 20:
                    os.kill(server.child("bros.workers"), signal.SIGKILL)
    assert len(json.loads("".join(pieces))) == 30
    wait_until(server.healthy)


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "get_weather"}}]
)
def test_a_tool_that_must_be_called(client: openai.OpenAI, model: str, choice: object) -> None:
    asked: dict[str, Any] = {
        "model": model,
        "messages": QUESTION,
        "tools": [WEATHER],
        "tool_choice": choice,
        "max_tokens": 60,
        "temperature": 0,
    }
    answer = client.chat.completions.create(**asked).choices[0]
    assert answer.finish_reason == "tool_calls"
    assert answer.message.content is None
    (call,) = answer.message.tool_calls or []
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments)["city"] in ("Paris", "London")
    chunks = list(client.chat.completions.create(**asked, stream=True))
    calls = [c for chunk in chunks for c in chunk.choices[0].delta.tool_calls or []]
    assert [c.function.arguments for c in calls] == [call.function.arguments]
    assert not any(chunk.choices[0].delta.content for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    turn = [*QUESTION, answer.message.to_dict()]
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    after = {**asked, "messages": [*turn, result], "tool_choice": "auto"}
    assert client.chat.completions.create(**after).choices[0].finish_reason in ("stop", "length")


def test_tokens_and_text(server: Server) -> None:
    def post(url: str, body: dict[str, Any]) -> httpx.Response:
        return httpx.post(f"{server.url}{url}", json=body)

    plain = post("/tokenize", {"prompt": "Once upon a time"}).json()
    assert plain["count"] == len(plain["tokens"]) > 3
    assert post("/detokenize", {"tokens": plain["tokens"]}).json() == {"prompt": "Once upon a time"}
    chat = post("/tokenize", {"messages": QUESTION}).json()["tokens"]
    assert "<|im_start|>" in post("/detokenize", {"tokens": chat}).json()["prompt"]
    assert post("/tokenize", {}).status_code == 400
    assert post("/detokenize", {"tokens": [-1]}).json()["error"]["param"] == "tokens[0]"
    assert httpx.get(f"{server.url}/ready").status_code == 200


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 1000),
        ("top_logprobs", 3),
        ("logprobs", "yes"),
        ("response_format", {"type": "xml"}),
        ("response_format", {"type": "json_schema"}),
        ("response_format", {"type": "json_schema", "json_schema": {"schema": {"type": "thing"}}}),
        ("tools", [{"type": "function", "function": {"name": "no spaces"}}]),
        ("tool_choice", "required"),
        ("stop_token_ids", [1] * 1000),
        ("messages", [{"role": "user", "content": "x"}] * 3000),
    ],
)
def test_what_cannot_be_is_told(server: Server, model: str, field: str, value: object) -> None:
    body = {"model": model, "messages": QUESTION, "max_tokens": 1, field: value}
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith(field)


def test_tools_need_a_place_in_the_template(
    client: openai.OpenAI, model: str, server: Server
) -> None:
    named: ChatCompletionNamedToolChoiceParam = {"type": "function", "function": {"name": "other"}}
    with pytest.raises(openai.BadRequestError, match="no tool 'other'"):
        client.chat.completions.create(
            model=model, messages=QUESTION, tools=[WEATHER], tool_choice=named
        )
