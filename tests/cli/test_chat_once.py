"""`bros chat` with one question, from a command line or a script."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from bros.brosd.protocol import wire

Bros = Callable[..., Any]
ANSWER = b"The capital is **Paris**.\n\nIt is in France.\n"
TIMINGS = rb"TTFT \d+ ms, TPOT \d+\.\d ms, 5 tokens, \d+\.\d tokens/s"


def body(ask: wire.OpenAIRequest) -> dict[str, Any]:
    return msgspec.json.decode(ask.body, type=dict[str, Any])


def test_once(tokenizer: Any, bros: Bros) -> None:
    done = bros("chat", "--once", "capital of France?", "--max-tokens", "9")
    assert (done.returncode, done.stdout) == (0, ANSWER)
    assert re.search(TIMINGS, done.stderr)
    ask = tokenizer.wait_for(wire.OpenAIRequest)
    assert ask.url == "/v1/chat/completions"
    assert body(ask) == {
        "model": "smollm2-135m-instruct",
        "temperature": 0.0,
        "max_tokens": 9,
        "messages": [{"role": "user", "content": "capital of France?"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_json(tokenizer: Any, bros: Bros) -> None:
    answer = json.loads(bros("chat", "--once", "hi", "--json").stdout)
    assert answer["answer"].encode() + b"\n" == ANSWER
    assert (answer["output_tokens"], answer["finish_reason"]) == (5, "stop")
    assert answer["ttft_s"] > 0
    assert answer["tpot_s"] > 0
    assert answer["tokens_per_s"] > 0


def test_a_pipe_is_one_question(tokenizer: Any, bros: Bros) -> None:
    done = bros("chat", "--system", "Be brief.", stdin="two\nlin\xe9s\n".encode("latin-1"))
    assert done.stdout == ANSWER
    assert body(tokenizer.wait_for(wire.OpenAIRequest))["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "two\nlin\ufffds"},
    ]


@pytest.mark.parametrize("arguments", [["--once", "What is this?"], ["What is this?"]])
def test_a_pipe_is_appended_to_the_question(
    tokenizer: Any, bros: Bros, arguments: list[str]
) -> None:
    assert bros("chat", *arguments, stdin=b"some text\n").stdout == ANSWER
    messages = body(tokenizer.wait_for(wire.OpenAIRequest))["messages"]
    assert messages == [{"role": "user", "content": "What is this?\n\nsome text"}]


def test_two_questions(tokenizer: Any, bros: Bros) -> None:
    done = bros("chat", "one", "--once", "two")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == b"error: there are two questions: give one, with or without --once\n"


def test_closed_standard_input(tokenizer: Any, start_bros: Bros) -> None:
    def ask(*arguments: str) -> tuple[int, bytes, bytes]:
        process = start_bros("chat", *arguments, preexec_fn=lambda: os.close(0))
        output, errors = process.communicate()
        return process.returncode, output, errors

    closed = b"error: standard input is closed: use --once QUESTION\n"
    assert ask() == (1, b"", closed)
    assert ask("hi")[:2] == (0, ANSWER)


@pytest.mark.parametrize(
    ("limit", "mark"), [("5", b"cut off by max_tokens"), ("9", b"cut off by the limit of tokens")]
)
def test_an_answer_that_was_cut_off(tokenizer: Any, bros: Bros, limit: str, mark: bytes) -> None:
    done = bros("chat", "up to the limit", "--max-tokens", limit)
    assert done.stdout == ANSWER
    assert done.stderr.startswith(mark + b", TTFT ")


@pytest.mark.parametrize("arguments", [["--once", " "], []])
def test_an_empty_question(tokenizer: Any, bros: Bros, arguments: list[str]) -> None:
    done = bros("chat", *arguments)
    assert (done.returncode, done.stderr) == (1, b"error: the question is empty\n")


def test_a_refused_question(tokenizer: Any, bros: Bros) -> None:
    done = bros("chat", "--once", "refuse this")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == b"error: too long: 9 tokens\n"


def test_a_broken_answer(tokenizer: Any, start_bros: Bros) -> None:
    process = start_bros("chat", "--once", "hang")
    assert process.stdout.read(5) == b"well,"
    tokenizer.stop()
    assert b"error: the server went away" in process.communicate()[1]
    assert process.returncode == 1


def test_ctrl_c_stops_the_request_too(tokenizer: Any, start_bros: Bros) -> None:
    process = start_bros("chat", "--once", "endless")
    assert process.stdout.read(6) == b"on and"
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode == 130
    assert tokenizer.wait_for(wire.Cancel)
