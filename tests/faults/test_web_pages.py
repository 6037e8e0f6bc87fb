"""Web pages of other sites, in a browser on this machine, can neither use nor read the server."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from fake_daemon import CHAT, TEXT, Daemon

PAGE = "https://chat.example"
EVIL = "https://evil.example"
NAME = "bros.internal"
NAMES = [f'server.cors_origins=["{PAGE}"]', f'server.allowed_hosts=["{NAME}"]']


@pytest.fixture(scope="module")
def daemon(model_dir: Path) -> Iterator[Daemon]:
    daemon = Daemon.in_scratch(model_dir, *NAMES)
    yield daemon
    daemon.close()


@pytest.fixture(autouse=True)
def served(daemon: Daemon) -> Iterator[None]:
    """Check that a client without any configuration is served after each test."""
    yield
    assert httpx.get(f"{daemon.url}/v1/models").status_code == 200


def nothing_asked(daemon: Daemon) -> bool:
    """Whether no request has come to the daemon: the next one that does is our own."""
    prompt = {"model": CHAT["model"], "prompt": "Mine", "max_tokens": 1}
    with ThreadPoolExecutor() as pool:
        mine = pool.submit(daemon.post, prompt, "/v1/completions")
        admit = daemon.recv_admit()
        daemon.answer(admit.rid, TEXT[:1])
        return mine.result().status_code == 200


def code_of(answer: httpx.Response) -> str:
    return str(answer.json()["error"]["code"])


@pytest.mark.parametrize("origin", [EVIL, "null", "http://localhost:3000", f"{PAGE}.evil.example"])
def test_a_post_of_plain_text(daemon: Daemon, origin: str) -> None:
    headers = {"origin": origin, "content-type": "text/plain"}
    url = f"{daemon.url}/v1/chat/completions"
    answer = httpx.post(url, json=CHAT, headers=headers)
    assert answer.status_code == 403
    assert code_of(answer) == "unknown_origin"
    assert nothing_asked(daemon)


@pytest.mark.parametrize("method", ["GET", "DELETE", "OPTIONS"])
def test_other_methods(daemon: Daemon, method: str) -> None:
    headers = {"origin": EVIL, "access-control-request-method": "DELETE"}
    answer = httpx.request(method, f"{daemon.url}/v1/files/file-1", headers=headers)
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_an_image_of_another_site(daemon: Daemon, site: str) -> None:
    answer = httpx.get(f"{daemon.url}/v1/files", headers={"sec-fetch-site": site})
    assert code_of(answer) == "unknown_origin"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "localhost.evil.example"])
def test_a_rebound_name(daemon: Daemon, host: str) -> None:
    """The page's own origin has that name, and it can send a key of its own invention."""
    headers = {"host": host, "origin": f"http://{host}", "authorization": "Bearer none"}
    answer = httpx.get(f"{daemon.url}/v1/files", headers=headers)
    assert answer.status_code == 403
    assert code_of(answer) == "unknown_host"


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:80", "app.localhost", "127.0.0.1:9", "[::1]:8000", NAME]
)
def test_names_of_this_server(daemon: Daemon, host: str) -> None:
    own = {"host": host, "origin": f"http://{host}", "sec-fetch-site": "same-origin"}
    for headers in ({"host": host}, own):
        assert httpx.get(f"{daemon.url}/v1/files", headers=headers).status_code == 200


def test_a_configured_page(daemon: Daemon) -> None:
    url = f"{daemon.url}/tokenize"
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "x-a"}
    preflight = httpx.options(url, headers={"origin": PAGE, **asked})
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == PAGE
    answer = httpx.post(url, json={"prompt": "Hi"}, headers={"origin": PAGE})
    assert answer.json()["tokens"]
    assert answer.headers["access-control-allow-origin"] == PAGE
    stored = httpx.post(
        f"{daemon.url}/v1/files",
        headers={"origin": PAGE},
        files={"file": ("a.txt", b"x")},
        data={"purpose": "user_data"},
    )
    assert stored.status_code == 200


def test_json_must_say_so(daemon: Daemon) -> None:
    url, body = f"{daemon.url}/tokenize", b'{"prompt": "Hi"}'
    for kind in ("text/plain", "multipart/form-data", ""):
        headers = {"origin": PAGE, "content-type": kind}
        assert code_of(httpx.post(url, content=body, headers=headers)) == "wrong_content_type"
    assert httpx.post(url, content=body, headers={"content-type": "text/plain"}).status_code == 200


def test_with_keys_any_name_will_do(daemon: Daemon) -> None:
    """A rebound page does not know a key; a page of another site is refused as before."""
    daemon.restart("server.auth=always", *NAMES)
    url = f"{daemon.url}/v1/files"
    assert code_of(httpx.get(url, headers={"host": "api.example"})) == "missing_api_key"
    assert code_of(httpx.get(url, headers={"origin": EVIL})) == "unknown_origin"
    daemon.restart(*NAMES)


def test_other_clients_need_nothing(daemon: Daemon) -> None:
    assert "access-control-allow-origin" not in httpx.get(f"{daemon.url}/v1/models").headers
    with httpx.stream("POST", f"{daemon.url}/v1/completions", json=_prompt()) as answer:
        daemon.answer(daemon.recv_admit().rid, TEXT)
        assert answer.read()
        assert answer.status_code == 200


def _prompt() -> dict[str, object]:
    return {"model": CHAT["model"], "prompt": "Hi", "max_tokens": 8, "stream": True}
