"""`bros chat`: one question from scripts, and the loop on a pseudo-terminal."""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import pty
import re
import select
import signal
import struct
import termios
import time
from collections.abc import Callable, Iterator
from fcntl import ioctl
from typing import Any

import msgspec
import pytest

from bros.brosd import wire

Bros = Callable[..., Any]
ANSWER = b"The capital is **Paris**.\n\nIt is in France.\n"
TIMINGS = rb"TTFT \d+ ms, TPOT \d+\.\d ms, 5 tokens, \d+\.\d tokens/s"
DEADLINE_S = 60.0


def body(ask: wire.Ask) -> dict[str, Any]:
    return msgspec.json.decode(ask.body)


def test_once(tokenizer: Any, bros: Bros) -> None:
    done = bros("chat", "--once", "capital of France?", "--temperature", "0", "--max-tokens", "9")
    assert (done.returncode, done.stdout) == (0, ANSWER)
    assert re.search(TIMINGS, done.stderr)
    ask = tokenizer.wait_for(wire.Ask)
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
    assert body(tokenizer.wait_for(wire.Ask))["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "two\nlin\ufffds"},
    ]


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
    assert b"error: the server restarted" in process.communicate()[1]
    assert process.returncode == 1


def test_ctrl_c_stops_the_request_too(tokenizer: Any, start_bros: Bros) -> None:
    process = start_bros("chat", "--once", "endless")
    assert process.stdout.read(6) == b"on and"
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode == 130
    assert tokenizer.wait_for(wire.Cancel)


class Terminal:
    """A program on a pseudo-terminal: what was typed and what is on it, without colours."""

    def __init__(self, start: Bros, *arguments: str, environ: dict[str, str]) -> None:
        self._fd, child = pty.openpty()
        ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.process = start(
            *arguments,
            stdin=child,
            stdout=child,
            stderr=child,
            env={**environ, "TERM": "xterm-256color"},
            preexec_fn=lambda: os.login_tty(child),
        )
        os.close(child)
        self._decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode
        self.raw = ""
        self._text = ""

    def type(self, keys: str) -> None:
        os.write(self._fd, keys.encode())

    def type_until(self, key: str, pattern: str) -> None:
        """Type until it is noticed: input() misses a signal just before it begins to wait."""
        for _ in range(30):
            self.type(key)
            with contextlib.suppress(AssertionError):
                self.expect(pattern, within_s=2)
                return
        pytest.fail(f"{key!r} was typed in vain")

    def expect(self, pattern: str, within_s: float = DEADLINE_S) -> str:
        """What came since the last match, up to the end of this one."""
        deadline_s = time.monotonic() + within_s
        while not (found := re.search(pattern, self._text, re.DOTALL)):
            left_s = deadline_s - time.monotonic()
            assert left_s > 0, f"{pattern!r} is not in {self._text!r}"
            if select.select([self._fd], [], [], left_s)[0]:
                self._read()
        before, self._text = self._text[: found.end()], self._text[found.end() :]
        return before

    def _read(self) -> None:
        piece = self._decode(os.read(self._fd, 65536))
        self.raw += piece
        self._text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", self._text + piece)

    def close(self) -> None:
        os.close(self._fd)


@pytest.fixture
def terminal(start_bros: Bros, environ: dict[str, str]) -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def open_(*arguments: str, **extra: str) -> Terminal:
        opened.append(Terminal(start_bros, *arguments, environ={**environ, **extra}))
        return opened[-1]

    yield open_
    for each in opened:
        each.close()


PROMPT = r"\n> $"
TIMING_LINE = TIMINGS.decode()


def test_a_conversation(tokenizer: Any, terminal: Callable[..., Terminal]) -> None:
    screen = terminal("chat", "--system", "Be brief.")
    screen.expect(PROMPT)
    screen.type("What is the capital?\n")
    shown = screen.expect(TIMING_LINE)
    assert "The capital is Paris." in shown  # rendered: no asterisks at the end
    assert "It is in France." in shown
    screen.expect(PROMPT)
    screen.type("And then?\n")
    screen.expect(TIMING_LINE)
    roles = [message["role"] for message in body(tokenizer.wait_for(wire.Ask, 2))["messages"]]
    assert roles == ["system", "user", "assistant", "user"]
    screen.type("/clear\n")
    screen.expect("forgotten")
    screen.type("Who?\n")
    screen.expect(TIMING_LINE)
    messages = body(tokenizer.wait_for(wire.Ask, 3))["messages"]
    assert [message["content"] for message in messages] == ["Be brief.", "Who?"]
    screen.expect(PROMPT)
    screen.type("\x04")
    assert screen.process.wait(DEADLINE_S) == 0


def test_ctrl_c_stops_the_answer_not_the_program(
    tokenizer: Any, terminal: Callable[..., Terminal]
) -> None:
    screen = terminal("chat")
    screen.expect(PROMPT)
    screen.type("endless\n")
    screen.expect("on and on")
    screen.type("\x03")
    screen.expect("stopped; TTFT")
    assert tokenizer.wait_for(wire.Cancel)
    screen.expect(PROMPT)
    screen.type("half a line")
    screen.expect("half a line")
    screen.type_until("\x03", PROMPT)
    screen.type("hi\n")
    screen.expect(TIMING_LINE)
    asked = body(tokenizer.wait_for(wire.Ask, 2))["messages"]
    assert [message["role"] for message in asked] == ["user", "assistant", "user"]
    assert asked[1]["content"].startswith("on and ")
    screen.expect(PROMPT)
    screen.type("/exit\n")
    assert screen.process.wait(DEADLINE_S) == 0


def test_errors_leave_the_conversation(tokenizer: Any, terminal: Callable[..., Terminal]) -> None:
    screen = terminal("chat")
    screen.expect(PROMPT)
    screen.type("refuse\n")
    screen.expect(r"error: too long: 9 tokens.*/clear")
    screen.expect(PROMPT)
    screen.type("hang\n")
    screen.expect("well,")
    tokenizer.stop()
    screen.expect("error: the server restarted")
    tokenizer.start()
    screen.expect(PROMPT)
    screen.type("/nonsense\n")
    screen.expect("/nonsense is no command")
    screen.type("/help\n")
    screen.expect("Ctrl-C stops an answer")
    screen.expect(PROMPT)
    screen.type("hi\n")
    screen.expect(TIMING_LINE)
    last = [message for message in tokenizer.seen if isinstance(message, wire.Ask)][-1]
    assert [message["content"] for message in body(last)["messages"]] == ["hi"]


def test_no_color(tokenizer: Any, terminal: Callable[..., Terminal]) -> None:
    screen = terminal("chat", NO_COLOR="1")
    screen.expect(PROMPT)
    screen.type("hi\n")
    screen.expect(TIMING_LINE)
    assert not re.search(r"\x1b\[(3[0-7]|9[0-7]|38)", screen.raw)


def test_progress_on_a_terminal(
    tokenizer: Any, terminal: Callable[..., Terminal], tmp_path: Any
) -> None:
    line = b'{"custom_id": "a", "url": "/v1/completions"}\n'
    (tmp_path / "b.jsonl").write_bytes(line * 25)
    tokenizer.hold_at = 12
    screen = terminal("submit", "b.jsonl")
    screen.expect(r"12/25 0 failed.*left")
    tokenizer.hold_at = 25
    screen.expect(r"25 of 25 lines done, 0 failed in .*output tokens/s")
    assert screen.process.wait(DEADLINE_S) == 0
