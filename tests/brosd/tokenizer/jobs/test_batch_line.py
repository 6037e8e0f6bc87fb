"""Lines that no request can be made of have a result that says why."""

from __future__ import annotations

import json
from typing import Any, Final

import openai

from fake_daemon import CHAT, TEXT, Daemon, batch_line
from harness import wait_until

URL: Final = "/v1/chat/completions"


def line(name: str, body: str) -> bytes:
    head = json.dumps({"custom_id": name, "method": "POST", "url": URL})[:-1]
    return f'{head}, "body": {body}}}'.encode()


def errors_of(daemon: Daemon, lines: list[bytes]) -> dict[str, Any]:
    """The failed lines of a batch, by custom id; the good one after them is answered."""
    client = openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="none", max_retries=0)
    content = b"\n".join([*lines, batch_line(0)]) + b"\n"
    file = client.files.create(file=("in.jsonl", content), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint=URL, completion_window="24h")
    daemon.answer(daemon.recv_admit().rid, TEXT)
    wait_until(lambda: client.batches.retrieve(batch.id).status == "completed")
    done = client.batches.retrieve(batch.id)
    assert done.request_counts is not None
    assert done.request_counts.completed == 1
    assert done.error_file_id is not None
    found = map(json.loads, client.files.content(done.error_file_id).iter_lines())
    return {item["custom_id"]: item for item in found}


def test_a_line_that_is_too_large_says_so(shared_daemon: Daemon) -> None:
    text = json.dumps({**CHAT, "messages": [{"role": "user", "content": "x" * (5 * 2**20)}]})
    found = errors_of(shared_daemon, [line("big", text)])
    assert "too large" in found["big"]["error"]["message"]
    assert found["big"]["error"]["code"] == "line_too_large"


def test_a_line_that_is_nested_too_deeply_says_so(shared_daemon: Daemon) -> None:
    depth = 400
    schema = '{"type":"object","properties":{"a":' * depth + "{}" + "}}" * depth
    form = f'{{"type": "json_schema", "json_schema": {{"schema": {schema}}}}}'
    deep = json.dumps(CHAT)[:-1] + f', "response_format": {form}}}'
    response = errors_of(shared_daemon, [line("deep", deep)])["deep"]["response"]
    assert response["status_code"] == 400
    assert "nested too deeply" in response["body"]["error"]["message"]
