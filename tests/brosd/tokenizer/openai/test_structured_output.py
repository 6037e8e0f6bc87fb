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


def with_schema(schema: dict[str, Any]) -> dict[str, Any]:
    wanted = {"type": "json_schema", "json_schema": {"schema": schema}}
    return {**CHAT, "response_format": wanted}


def optional(count: int) -> dict[str, Any]:
    return {"type": "object", "properties": {f"p{i}": {"type": "integer"} for i in range(count)}}


def refusal(daemon: Daemon, schema: dict[str, Any]) -> str:
    answer = daemon.post(with_schema(schema))
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == "response_format"
    return str(error["message"])


def assert_served(daemon: Daemon, pool: ThreadPoolExecutor, schema: dict[str, Any]) -> None:
    response = pool.submit(daemon.post, with_schema(schema))
    daemon.answer(daemon.recv_admit().rid, TEXT)
    assert response.result().status_code == 200


def test_a_schema_that_takes_too_long_is_refused_and_hurts_nobody(
    shared_daemon: Daemon, pool: ThreadPoolExecutor
) -> None:
    for divisor in (3000017, 3000029):
        endless = {"type": "integer", "multipleOf": divisor}
        assert "the schema is too complex" in refusal(shared_daemon, endless)
        assert_served(shared_daemon, pool, {"type": "integer", "multipleOf": divisor % 1000})


def test_schemas_are_bounded(shared_daemon: Daemon, pool: ThreadPoolExecutor) -> None:
    assert "5000 optional properties, more than 256" in refusal(shared_daemon, optional(5000))
    inside = {"type": "array", "items": optional(257)}
    assert "257 optional properties, more than 256" in refusal(shared_daemon, inside)
    large = {"type": "object", "description": "x" * 2**18}
    assert "bytes, more than 262144" in refusal(shared_daemon, large)
    assert "nested too deeply" in refusal(shared_daemon, nested(51))
    assert_served(shared_daemon, pool, optional(256))
    assert_served(shared_daemon, pool, nested(49))


def test_a_schema_whose_masks_exceed_a_limit_is_refused(shared_daemon: Daemon) -> None:
    choices = [optional(200) for _ in range(8)]
    assert "Current row has" in refusal(shared_daemon, {"anyOf": choices})
