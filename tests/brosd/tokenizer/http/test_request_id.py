"""Every answer has a request id: the client's, if the client sent a usable one."""

from __future__ import annotations

import httpx
import pytest

from fake_daemon import Daemon


@pytest.mark.parametrize("path", ["/v1/models", "/health", "/v1/nothing", "/v1/files/none"])
def test_answers_and_refusals_have_one(shared_daemon: Daemon, path: str) -> None:
    url = f"{shared_daemon.url}{path}"
    ids = {httpx.get(url).headers["x-request-id"] for _ in range(2)}
    assert len(ids) == 2
    assert all(found.startswith("req_") for found in ids)
    answer = httpx.get(url, headers={"x-request-id": "mine-1"})
    assert answer.headers.get_list("x-request-id") == ["mine-1"]


@pytest.mark.parametrize("asked", ["", "a b", "x" * 200])
def test_unusable_ones_are_replaced(shared_daemon: Daemon, asked: str) -> None:
    answer = httpx.get(f"{shared_daemon.url}/v1/models", headers={"x-request-id": asked})
    assert answer.headers["x-request-id"].startswith("req_")
