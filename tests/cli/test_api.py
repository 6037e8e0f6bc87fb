"""The client over real sockets, against a peer that speaks the wire's messages."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from bros.brosd.client import client as api
from bros.brosd.client import ipc as transport
from bros.brosd.client.client import ApiError, Client, ClientError, ConnectionLost, NotRunning
from bros.brosd.protocol import wire
from bros.brosd.protocol.batch_lines import PART_LINES

URL = "/v1/chat/completions"


def question(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "stream": True}


@pytest.fixture
def client(tokenizer: Any) -> Iterator[Client]:
    with Client(tokenizer.runtime) as client:
        yield client


def test_a_stream_gives_its_chunks_and_ends(client: Client) -> None:
    chunks = list(client.ask(URL, question("hi")))
    text = "".join(c["choices"][0]["delta"]["content"] for c in chunks if c["choices"])
    assert text.startswith("The capital is")
    assert chunks[-1]["usage"]["completion_tokens"] == 5


def test_a_refused_question_raises_the_openai_error(client: Client) -> None:
    with pytest.raises(ApiError, match="9 tokens") as caught:
        list(client.ask(URL, question("refuse")))
    assert (caught.value.status, caught.value.code) == (400, "context_length_exceeded")


def test_an_unexplained_error_still_says_something(client: Client, tokenizer: Any) -> None:
    tokenizer._ask = lambda peer, ask: tokenizer._send(
        peer, wire.Reply(rid=ask.rid, status=500, body=b"oops", last=True)
    )
    with pytest.raises(ApiError, match="oops"):
        list(client.ask(URL, question("hi")))


def test_closing_a_stream_early_cancels_it(client: Client, tokenizer: Any) -> None:
    stream = client.ask(URL, question("endless"))
    next(stream)
    stream.close()
    assert tokenizer.wait_for(wire.Cancel).rid == tokenizer.wait_for(wire.OpenAIRequest).rid


def test_a_finished_or_failed_stream_is_not_cancelled(client: Client, tokenizer: Any) -> None:
    list(client.ask(URL, question("hi")))
    with pytest.raises(ApiError):
        list(client.ask(URL, question("refuse")))
    client.status()
    assert not [message for message in tokenizer.seen if isinstance(message, wire.Cancel)]


def test_a_stream_breaks_with_the_tokenizer_and_the_next_one_works(
    client: Client, tokenizer: Any
) -> None:
    stream = client.ask(URL, question("hang"))
    assert next(stream)["choices"]
    tokenizer.stop()
    with pytest.raises(ConnectionLost, match="ask again"):
        next(stream)
    tokenizer.start()
    assert list(client.ask(URL, question("hi")))


def test_status(client: Client, tokenizer: Any) -> None:
    assert client.status() == tokenizer.stats
    tokenizer.stats = None
    assert client.status() is None


@pytest.mark.parametrize("num_lines", [1, 500, 501, 1201])
def test_a_job_goes_in_parts(client: Client, tokenizer: Any, num_lines: int) -> None:
    lines = [b"line %d" % i for i in range(num_lines)]
    assert client.put_job("j", iter(lines)) == num_lines
    assert tokenizer.jobs["j"].lines == lines
    puts = [message for message in tokenizer.seen if isinstance(message, wire.JobPut)]
    assert [put.last for put in puts] == [False] * (len(puts) - 1) + [True]
    assert all(len(put.lines) <= PART_LINES for put in puts)
    assert all(b.first == a.first + len(a.lines) for a, b in pairwise(puts))


def test_parts_are_bounded_in_bytes(client: Client, tokenizer: Any) -> None:
    lines = [b"x" * 300_000] * 7 + [b"y" * (4 * 2**20)] + [b"z"]
    client.put_job("j", lines)
    assert tokenizer.jobs["j"].lines == lines
    puts = [message for message in tokenizer.seen if isinstance(message, wire.JobPut)]
    assert [len(put.lines) for put in puts] == [3, 3, 1, 1, 1]


def test_results_are_paged(client: Client) -> None:
    client.put_job("j", [b'{"url": "/v1/completions"}'] * 25)
    pages: list[list[bytes]] = []
    after = 0
    while not pages or pages[-1]:
        page = client.fetch("j", after)
        after = page.next
        pages.append(page.results)
    assert [len(page) for page in pages] == [10, 10, 5, 0]
    assert (page.status.state, page.status.completed) == ("completed", 25)


def test_jobs_are_listed_and_cancelled(client: Client, tokenizer: Any) -> None:
    tokenizer.hold_at = 1
    client.put_job("j", [b"{}", b"{}"])
    assert client.cancel_job("j").state == "cancelled"
    assert [job.job for job in client.jobs()] == ["j"]


def test_an_unknown_job_is_refused(client: Client) -> None:
    with pytest.raises(ApiError, match="no job nope"):
        client.fetch("nope")


def test_an_unanswered_call_is_repeated(
    client: Client, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "RESEND_S", 0.1)
    tokenizer.deaf = 1
    assert client.put_job("j", [b"{}"]) == 1
    first, second = [message for message in tokenizer.seen if isinstance(message, wire.JobPut)]
    assert first == second


def test_a_call_outlives_the_tokenizer(client: Client, tokenizer: Any) -> None:
    tokenizer.deaf = 1
    answers: list[int] = []
    caller = threading.Thread(target=lambda: answers.append(client.put_job("j", [b"{}"])))
    caller.start()
    tokenizer.wait_for(wire.JobPut)
    tokenizer.stop()
    tokenizer.start()
    caller.join(60)
    assert answers == [1]


def test_late_answers_to_a_repeated_call_are_overlooked(
    client: Client, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = tokenizer._handle
    monkeypatch.setattr(tokenizer, "_handle", lambda *a: [handle(*a) for _ in range(3)])
    client.put_job("j", [b"{}"] * 600)
    assert len(tokenizer.jobs["j"].lines) == 600
    assert client.status() == tokenizer.stats


def test_no_daemon(runtime: Path) -> None:
    with pytest.raises(NotRunning, match="brosd start"):
        Client(runtime)


def test_the_socket_of_a_dead_daemon(tokenizer: Any, tmp_path: Path) -> None:
    """The socket's file exists, but nobody listens and nobody holds the lock."""
    import socket

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "client.sock"))
    with Client(tmp_path) as client, pytest.raises(NotRunning):
        client.status()


def test_a_starting_daemon_is_waited_for(tokenizer: Any) -> None:
    tokenizer.stop()
    with Client(tokenizer.runtime) as client:
        tokenizer.start()
        assert client.status() == tokenizer.stats


def test_a_daemon_that_never_answers(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "PATIENCE_S", 0.5)
    tokenizer.deaf = 10**9
    with Client(tokenizer.runtime) as client, pytest.raises(ClientError, match="did not answer"):
        client.status()


def test_a_path_too_long_for_a_socket(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    (folder / "client.sock").touch()
    with pytest.raises(ClientError, match="shorter runtime_dir"):
        Client(folder)


def test_a_message_that_the_server_cannot_read(client: Client, tokenizer: Any) -> None:
    """The server cannot know the message's rid, so its error names none."""
    refusal = wire.Refused(rid=0, code="bad_message", message="which version is this?")
    tokenizer._handle = lambda peer, message: tokenizer._send(peer, refusal)
    with pytest.raises(ApiError, match="which version"):
        client.status()
    with pytest.raises(ApiError, match="which version"):
        list(client.ask(URL, question("hi")))


def test_a_peer_of_another_version(client: Client, tokenizer: Any) -> None:
    def gibberish(peer: bytes, message: Any) -> None:
        tokenizer._socket.send_multipart([peer, b"\x93\xa5hello\x01\x02"])

    tokenizer._handle = gibberish
    with pytest.raises(ClientError, match="same version"):
        client.status()
