"""The official client works unchanged."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from harness import MODEL, PLAIN, Server

pytestmark = pytest.mark.server(*PLAIN)


@pytest.fixture
def client(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


# Each token of its answer leads by a nat or more, so no CPU's rounding changes the answer.
QUESTION: list[ChatCompletionMessageParam] = [
    {"role": "user", "content": "Name the capital of France."}
]


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]


def test_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=QUESTION, temperature=0, max_tokens=40
    )
    assert answer.choices[0].message.content == "The capital of France is Paris."
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_chat_streams_the_same_text(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model=MODEL,
        messages=QUESTION,
        temperature=0,
        max_tokens=40,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == "The capital of France is Paris."
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 4


@pytest.mark.parametrize("tier", ["default", "flex"])
def test_completion_of_text_and_of_ids(client: openai.OpenAI, tier: str) -> None:
    by_text = client.completions.create(
        model=MODEL,
        prompt="Once upon a time",
        max_tokens=12,
        temperature=0,
        extra_body={"return_token_ids": True, "service_tier": tier},
    )
    choice = by_text.choices[0]
    by_ids = client.completions.create(
        model=MODEL,
        prompt=choice.prompt_token_ids,  # type: ignore[attr-defined]
        max_tokens=12,
        temperature=0,
    )
    assert by_ids.choices[0].text == choice.text
    assert choice.finish_reason == "length"
    assert by_text.usage is not None
    assert by_text.usage.completion_tokens == 12


def test_completion_streams(client: openai.OpenAI) -> None:
    arguments: dict[str, Any] = {
        "model": MODEL,
        "prompt": "One, two,",
        "max_tokens": 10,
        "temperature": 0,
    }
    whole = client.completions.create(**arguments).choices[0].text
    pieces = [
        chunk.choices[0].text for chunk in client.completions.create(**arguments, stream=True)
    ]
    assert len(pieces) > 3
    assert "".join(pieces) == whole


def test_sampling_is_repeated_by_its_seed(client: openai.OpenAI) -> None:
    def sample(seed: int) -> str:
        answer = client.completions.create(
            model=MODEL, prompt="My favourite", max_tokens=16, temperature=1.0, seed=seed
        )
        return answer.choices[0].text

    assert sample(7) == sample(7)
    assert len({sample(seed) for seed in range(4)}) > 1


def test_stop_strings_end_the_text_before_them(client: openai.OpenAI) -> None:
    arguments: dict[str, Any] = {
        "model": MODEL,
        "messages": QUESTION,
        "temperature": 0,
        "max_tokens": 40,
    }
    answer = client.chat.completions.create(**arguments, stop=[" Paris"])
    assert answer.choices[0].message.content == "The capital of France is"
    assert answer.choices[0].finish_reason == "stop"


def test_errors_are_the_clients_own_exceptions(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="gpt-unknown", messages=QUESTION)
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=MODEL, messages=[])
    assert caught.value.param == "messages"
