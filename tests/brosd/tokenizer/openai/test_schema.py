"""Fields that would change an answer are kept to or refused, and refusals name what is allowed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from fake_daemon import CHAT, TEXT, Daemon

REFUSED: dict[str, Any] = {
    "guided_json": {"type": "object"},
    "guided_regex": "[0-9]+",
    "guided_choice": ["yes", "no"],
    "guided_grammar": "root ::= 'a'",
    "grammar": "root ::= 'a'",
    "json_schema": {"type": "object"},
    "chat_template": "{{ messages[0]['content'] }}",
    "truncate_prompt_tokens": 3,
    "use_beam_search": True,
    "cache_salt": "mine",
    "reasoning_effort": "low",
    "return_tokens_as_token_ids": True,
}


@pytest.mark.parametrize("url", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_supported_is_refused(shared_daemon: Daemon, url: str, name: str) -> None:
    body = CHAT if "chat" in url else {"model": CHAT["model"], "prompt": "Hi"}
    answer = shared_daemon.post({**body, name: REFUSED[name]}, url)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == (name, "unsupported_value")


def test_values_that_change_nothing_are_taken(
    shared_daemon: Daemon, pool: ThreadPoolExecutor
) -> None:
    harmless = {"use_beam_search": False, "reasoning_effort": "none", "guided_json": None}
    response = pool.submit(shared_daemon.post, {**CHAT, **harmless})
    shared_daemon.answer(shared_daemon.recv_admit().rid, TEXT)
    assert response.result().status_code == 200


@pytest.mark.parametrize(
    ("fields", "allowed"),
    [
        ({"response_format": {"type": "json"}}, "text, json_object, json_schema"),
        ({"service_tier": "gold"}, "auto, default, priority, flex"),
        ({"tool_choice": "maybe"}, "none, auto, required"),
        ({"tools": [{"type": "code", "function": {"name": "f"}}]}, "function"),
        (
            {"messages": [{"role": "pirate", "content": "Hi"}]},
            "system, user, assistant, tool, developer",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "image", "text": ""}]}]}, "text"),
    ],
)
def test_a_wrong_value_is_answered_with_the_right_ones(
    shared_daemon: Daemon, fields: dict[str, Any], allowed: str
) -> None:
    answer = shared_daemon.post({**CHAT, **fields})
    assert answer.status_code == 400
    message = answer.json()["error"]["message"].replace("'", "")
    assert {part.strip() for part in message.split("allowed: ")[1].split(",")} == {
        part.strip() for part in allowed.split(",")
    }
