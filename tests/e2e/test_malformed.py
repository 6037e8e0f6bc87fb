"""Malformed requests get a 4xx that names the field, and the server serves on."""

from __future__ import annotations

import json

import httpx
import pytest

from harness import MODEL, PLAIN, Server

pytestmark = pytest.mark.server(*PLAIN)

CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
TEXT = {"model": MODEL, "prompt": "Hi", "max_tokens": 4}
BODIES = {"/v1/chat/completions": CHAT, "/v1/completions": TEXT}

# For each field of both bodies, JSON values that it must refuse.
WRONG: dict[str, list[str]] = {
    "model": ["null", "3", "[]", '"nobody/knows-it"', '""'],
    "max_tokens": ["-1", "0", '"4"', "1.5", "[]", "1e400", str(10**30), "100000000"],
    "temperature": ["-0.1", "2.1", '"hot"', "NaN", "Infinity", "-Infinity", "1e999", "[1]"],
    "top_p": ["0", "-1", "1.01", '"all"', "NaN", "{}"],
    "top_k": ["-2", "1.5", '"many"', "NaN", "[]"],
    "min_p": ["-0.1", "1.1", '"x"', "NaN"],
    "repetition_penalty": ["0", "-1", '"x"', "NaN", "Infinity"],
    "frequency_penalty": ["-2.1", "2.1", '"x"', "NaN"],
    "presence_penalty": ["-2.1", "2.1", '"x"', "NaN"],
    "seed": ['"x"', "1.5", "[]", str(2**70)],
    "stop": ["3", "[3]", '[""]', '""', '{"a": 1}', json.dumps(["x"] * 100)],
    "stream": ['"yes"', "1", "[]"],
    "stream_options": ["3", '{"include_usage": "yes"}', "[]"],
    "n": ["0", "-1", '"x"', "1.5"],
    "ignore_eos": ['"x"', "3"],
    "service_tier": ["3", '"gold"', "[]"],
    "slo": ["3", '{"ttft_ms": -1}', '{"tpot_ms": "x"}', '{"ttft_ms": NaN}'],
}
WRONG_OF: dict[str, dict[str, list[str]]] = {
    "/v1/chat/completions": {
        "messages": [
            "null",
            "[]",
            '"Hi"',
            "[3]",
            "[{}]",
            '[{"role": "user"}]',
            '[{"role": "user", "content": 3}]',
            '[{"role": "pirate", "content": "Hi"}]',
            '[{"role": 3, "content": "Hi"}]',
            '[{"content": "Hi"}]',
            '[{"role": "user", "content": [{"type": "image_url"}]}]',
            '[{"role": "user", "content": "\\ud800"}]',
            json.dumps([{"role": "user", "content": "word " * 9000}]),
            json.dumps([{"role": "user", "content": [[[]]]}]),
        ]
    },
    "/v1/completions": {
        "prompt": [
            "null",
            "3",
            "[]",
            '""',
            "{}",
            "[-1]",
            "[99999999]",
            "[1.5]",
            '[1, "a"]',
            "[[]]",
            "[[[1]]]",
            '"\\ud800"',
            json.dumps("word " * 9000),
            json.dumps([1] * 9000),
        ]
    },
}
BROKEN = [
    b"",
    b"{",
    b"}",
    b"[]",
    b"null",
    b"3",
    b'"text"',
    b"{]",
    b"\xff\xfe",
    b'{"model": "' + b"\xc3\x28" + b'"}',
    b"{'model': 1}",
    b'{"model" "x"}',
    b'{"model": tru}',
    b"\0",
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b"not json at all",
    b'{"model": "x"} trailing',
]


def with_field(body: dict[str, object], name: str, value: str) -> bytes:
    """Return the body's JSON with one field replaced by raw JSON."""
    fields = {**{key: json.dumps(v) for key, v in body.items()}, name: value}
    return ("{" + ", ".join(f'"{key}": {v}' for key, v in fields.items()) + "}").encode()


def cases() -> list[tuple[str, bytes, str]]:
    """Return URLs, bodies, and the fields that the errors must name."""
    found = []
    for url, body in BODIES.items():
        for name, values in {**WRONG, **WRONG_OF[url]}.items():
            found += [(url, with_field(body, name, value), name) for value in values]
        found += [(url, data, "body") for data in BROKEN]
    return found


def assert_error(response: httpx.Response, field: str) -> None:
    assert 400 <= response.status_code < 500, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert (error["param"] or "").split(".")[0].split("[")[0] == field, error


def test_200_malformed_bodies(server: Server) -> None:
    assert len(cases()) >= 200
    with httpx.Client(base_url=server.url, timeout=60.0) as client:
        for url, data, field in cases():
            try:
                assert_error(client.post(url, content=data), field)
            except AssertionError as error:
                raise AssertionError(f"{url} {data[:200]!r}") from error
        good = client.post("/v1/chat/completions", json={**CHAT, "temperature": 0})
        assert good.status_code == 200


def test_huge_bodies_are_refused(server: Server) -> None:
    def endless() -> object:
        for _ in range(64):
            yield b"x" * 2**20

    with httpx.Client(base_url=server.url, timeout=60.0) as client:
        for url in BODIES:
            response = client.post(url, content=b"x" * (2 * 2**20))
            assert response.status_code == 413
            assert_error(response, "body")
            streamed = client.post(url, content=endless())  # type: ignore[arg-type]
            assert streamed.status_code == 413
        assert server.healthy()


def test_unknown_urls_and_methods(server: Server) -> None:
    with httpx.Client(base_url=server.url) as client:
        assert client.get("/v1/nothing").status_code == 404
        assert "error" in client.get("/v1/nothing").json()
        assert client.get("/v1/completions").status_code == 405
        assert "error" in client.get("/v1/completions").json()
