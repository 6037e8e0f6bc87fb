"""Schemas become grammars; those that cannot are the client's error, with a reason."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from fake_daemon import CHAT, TEXT, Daemon

ONLY_A = {
    "type": "object",
    "properties": {"a": {"const": 1}},
    "required": ["a"],
    "additionalProperties": False,
}


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


def nested_text(depth: int) -> str:
    return '{"a":' * depth + "1" + "}" * depth


def deep_requests(depth: int) -> dict[str, dict[str, Any]]:
    tool = {"type": "function", "function": {"name": "f", "parameters": nested(depth)}}
    called = {"name": "f", "arguments": nested_text(depth)}
    call = {"id": "c", "type": "function", "function": called}
    return {
        "response_format": {
            "response_format": {"type": "json_schema", "json_schema": {"schema": nested(depth)}}
        },
        "tools": {"tools": [tool], "tool_choice": "required"},
        "messages": {
            "messages": [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "tool_calls": [call]},
                {"role": "tool", "content": "x", "tool_call_id": "c"},
            ]
        },
    }


@pytest.mark.parametrize("depth", [200, 400, 2000])
@pytest.mark.parametrize("name", ["response_format", "tools"])
def test_a_schema_nested_too_deeply_is_the_clients_error(
    shared_daemon: Daemon, name: str, depth: int
) -> None:
    text = json.dumps({**CHAT, **deep_requests(150)[name]})
    inner = json.dumps(nested(150))
    body = text.replace(inner, deep_schema_text(depth))
    answer = shared_daemon.post_text(body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] in (name, "body")
    assert "recursion limit" in error["message"] or "nested too deeply" in error["message"]


def deep_schema_text(depth: int) -> str:
    opening = '{"type":"object","properties":{"a":'
    return opening * depth + '{"type":"integer"}' + "}}" * depth


def test_arguments_nested_too_deeply_are_the_clients_error(
    shared_daemon: Daemon, pool: ThreadPoolExecutor
) -> None:
    answer = shared_daemon.post({**CHAT, **deep_requests(100_000)["messages"]})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith("messages")


def test_an_object_may_have_its_schema_beside_its_type(
    shared_daemon: Daemon, pool: ThreadPoolExecutor
) -> None:
    body = {**CHAT, "response_format": {"type": "json_object", "schema": ONLY_A}}
    response = pool.submit(shared_daemon.post, body)
    admit = shared_daemon.recv_admit()
    shared_daemon.answer(admit.rid, TEXT)
    assert response.result().status_code == 200
    assert '"const": 1' in admit.sampling.grammar or '"const":1' in admit.sampling.grammar
