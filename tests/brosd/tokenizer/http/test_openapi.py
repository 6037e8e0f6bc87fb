"""`/openapi.json` describes everything that is served, and nothing else."""

from __future__ import annotations

import httpx
import pytest

from bros import __version__
from fake_daemon import Daemon

# What a client knows that reads the documentation.
SERVED = {
    "/v1/chat/completions": {"post"},
    "/v1/completions": {"post"},
    "/v1/files": {"get", "post"},
    "/v1/files/{file_id}": {"get", "delete"},
    "/v1/files/{file_id}/content": {"get"},
    "/v1/batches": {"get", "post"},
    "/v1/batches/{batch_id}": {"get"},
    "/v1/batches/{batch_id}/cancel": {"post"},
    "/v1/models": {"get"},
    "/v1/models/{model}": {"get"},
    "/health": {"get"},
    "/ready": {"get"},
    "/ping": {"get"},
    "/version": {"get"},
    "/metrics": {"get"},
    "/tokenize": {"post"},
    "/detokenize": {"post"},
}
OPEN = {"/health", "/ready", "/ping"}


def test_the_document_names_each_url_and_its_methods(shared_daemon: Daemon) -> None:
    document = httpx.get(f"{shared_daemon.url}/openapi.json").json()
    assert {path: set(methods) for path, methods in document["paths"].items()} == SERVED
    keyless = {
        path
        for path, methods in document["paths"].items()
        for operation in methods.values()
        if operation.get("security") == []
    }
    assert keyless == OPEN
    chat = document["components"]["schemas"]["ChatRequest"]["properties"]
    assert "chat_template_kwargs" in chat
    assert "guided_json" not in chat  # it is parsed only to be refused


@pytest.mark.parametrize("path", SERVED)
def test_each_method_is_served(shared_daemon: Daemon, path: str) -> None:
    for method in SERVED[path]:
        url = f"{shared_daemon.url}{path}".replace("{", "").replace("}", "")
        answer = httpx.request(method, url)
        assert answer.status_code != 405
        assert answer.status_code < 500
        if answer.status_code == 404:
            assert answer.json()["error"]["code"] != "unknown_url"


def test_ping_and_version(shared_daemon: Daemon) -> None:
    assert httpx.get(f"{shared_daemon.url}/ping").status_code == 200
    assert httpx.get(f"{shared_daemon.url}/version").json() == {"version": __version__}
