"""`bros chat` on a pseudo-terminal: questions, answers, commands and keys."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from bros.brosd.protocol import wire
from terminal import Terminal

TIMING_LINE = r"TTFT \d+ ms, TPOT \d+\.\d ms, 5 tokens, \d+\.\d tokens/s"
Open = Callable[..., Terminal]
Size = tuple[int, int]
SIZES = [(80, 24), (200, 60)]


def body(ask: wire.OpenAIRequest) -> dict[str, Any]:
    return msgspec.json.decode(ask.body, type=dict[str, Any])


def ask(screen: Terminal, question: str) -> str:
    """Type a question and wait for its answer's end."""
    before = screen.scrolled.count("TTFT")
    ready(screen)
    screen.type(f"{question}\r")
    screen.expect_that(lambda: screen.scrolled.count("TTFT") > before)
    return screen.text


def ready(screen: Terminal) -> None:
    """Wait for an empty prompt."""
    screen.expect_that(lambda: screen.lines[screen.cursor[0]] == ">" and screen.cursor[1] == 2)


@pytest.mark.parametrize("size", SIZES)
def test_a_conversation(tokenizer: Any, terminal: Open, size: Size) -> None:
    screen = terminal("chat", "--system", "Be brief.", size=size)
    shown = ask(screen, "What is the capital?")
    assert "The capital is Paris." in shown  # rendered: no asterisks at the end
    assert "It is in France." in shown
    assert re.search(TIMING_LINE + r", context 0%, SLO (met|missed)", shown)
    assert all(len(line) <= size[0] for line in screen.lines)
    ask(screen, "And then?")
    ready(screen)
    screen.expect(r"smollm2-135m-instruct, context 10 of 2,048 tokens, SLO met \d of 2")
    roles = [
        message["role"] for message in body(tokenizer.wait_for(wire.OpenAIRequest, 2))["messages"]
    ]
    assert roles == ["system", "user", "assistant", "user"]
    screen.type("/clear\r")
    screen.expect("forgotten")
    ask(screen, "Who?")
    messages = body(tokenizer.wait_for(wire.OpenAIRequest, 3))["messages"]
    assert [message["content"] for message in messages] == ["Be brief.", "Who?"]
    ready(screen)
    screen.type("\x04")
    assert screen.wait() == 0


@pytest.mark.parametrize("size", SIZES)
def test_ctrl_c_stops_the_answer_not_the_program(
    tokenizer: Any, terminal: Open, size: Size
) -> None:
    screen = terminal("chat", size=size)
    ready(screen)
    screen.type("endless\r")
    screen.expect("on and on")
    screen.type("\x03")
    screen.expect("stopped; TTFT")
    screen.expect(r"context at least \d+ of 2,048 tokens")
    assert tokenizer.wait_for(wire.Cancel)
    ready(screen)
    screen.type("half a line")
    screen.expect("> half a line")
    screen.type("\x03")
    ask(screen, "hi")
    asked = body(tokenizer.wait_for(wire.OpenAIRequest, 2))["messages"]
    assert [message["role"] for message in asked] == ["user", "assistant", "user"]
    assert asked[1]["content"].startswith("on and ")
    ready(screen)
    screen.type("/exit\r")
    assert screen.wait() == 0


@pytest.mark.parametrize("size", SIZES)
def test_several_lines_and_history(
    tokenizer: Any, terminal: Open, tmp_path: Any, size: Size
) -> None:
    state = {"XDG_STATE_HOME": str(tmp_path)}
    screen = terminal("chat", size=size, **state)
    ask(screen, "one\x1b\rtwo\\\rthree")
    ask(screen, '"""four\r\rfive"""')
    pasted = "\x1b[200~six\nseven\x1b[201~"
    ask(screen, pasted)
    questions = [body(ask)["messages"][-1]["content"] for ask in asks(tokenizer)]
    assert questions == ["one\ntwo\nthree", "four\n\nfive", "six\nseven"]
    ready(screen)
    screen.type("\x04")
    assert screen.wait() == 0
    history = tmp_path / "bros" / "chat_history"
    assert history.stat().st_mode & 0o777 == 0o600
    again = terminal("chat", **state)
    ready(again)
    again.type("\x1b[A")
    again.expect("> six\n. seven")


def asks(tokenizer: Any) -> list[wire.OpenAIRequest]:
    return [message for message in tokenizer.seen if isinstance(message, wire.OpenAIRequest)]


@pytest.mark.parametrize("size", SIZES)
def test_slash_commands(tokenizer: Any, terminal: Open, tmp_path: Any, size: Size) -> None:
    screen = terminal("chat", size=size, XDG_STATE_HOME=str(tmp_path))
    ready(screen)
    for line, answer in (
        ("/system Be kind.", "system message: Be kind."),
        ("/system", "system message: Be kind."),
        ("/params", r"parameters: temperature 0\.2"),
        ("/params seed 7", r"parameters: temperature 0\.2, seed 7"),
        ("/params ttft_ms 900", r"parameters: .*ttft_ms 900"),
        ("/params temperature default", r"parameters: seed 7, ttft_ms 900"),
        ("/params colour red", "error: colour is no parameter; there are temperature"),
        ("/params seed red", "error: seed must be a number, not .red"),
        ("/params seed", "error: a value is missing: /params seed VALUE"),
        ("/model", "model: smollm2-135m-instruct, up to 2,048 tokens"),
        ("/model gpt-x", "error: gpt-x is not served here"),
        ("/retry", "error: there is no question yet"),
        ("/load nothing", "error: there is no conversation nothing; saved: none"),
        ("/save no/such/folder/", "error: no/such/folder: No such file or directory"),
        ("/save", "error: a name is missing: /save NAME"),
        ("/nonsense", "/nonsense is no command"),
        ("/clear", "the conversation is forgotten"),
    ):
        screen.type(f"{line}\r")
        screen.expect(rf"> {re.escape(line)}\n+{answer}")
        ready(screen)
        screen.type("\x0c")  # Ctrl-L clears the screen
        screen.expect_that(lambda: screen.cursor[0] == 0)
    ask(screen, "hi")
    ready(screen)
    screen.type("/save talk\r")
    # A long path continues on the next line.
    screen.expect_that(lambda: re.search("saved as.*talk.json", "".join(screen.lines)) is not None)
    ask(screen, "/retry")
    assert [body(ask) for ask in asks(tokenizer)] == 2 * [
        {
            "model": "smollm2-135m-instruct",
            "seed": 7,
            "slo": {"ttft_ms": 900.0},
            "messages": [
                {"role": "system", "content": "Be kind."},
                {"role": "user", "content": "hi"},
            ],
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ]
    ready(screen)
    screen.type("/clear\r")
    screen.expect("forgotten")
    ready(screen)
    screen.type("/load talk\r")
    screen.expect("talk: 2 messages")
    screen.expect("context 10 of 2,048 tokens")
    ask(screen, "more")
    assert len(body(asks(tokenizer)[-1])["messages"]) == 4
    ready(screen)
    screen.type("/stats\r")
    screen.expect(r"this session: 3 answers, 15 tokens, mean TTFT.*real-time 2 running.*SLO met 95")


def test_slash_commands_are_completed(tokenizer: Any, terminal: Open) -> None:
    screen = terminal("chat")
    ready(screen)
    screen.type("/sy")
    screen.expect("/system +the system message")
    screen.type("\t")
    screen.expect("> /system$")
    screen.type("\r Be kind.\r")
    screen.expect("system message: Be kind.")
    ready(screen)
    screen.type("/help\r")
    shown = screen.expect("Ctrl-D leaves")
    for name in ("system", "model", "params", "save", "load", "retry", "clear", "stats", "help"):
        assert f"/{name} " in shown


def test_errors_leave_the_conversation(tokenizer: Any, terminal: Open) -> None:
    screen = terminal("chat")
    ready(screen)
    screen.type("refuse\r")
    screen.expect(r"error: too long: 9 tokens.*/clear")
    ready(screen)
    screen.type("hang\r")
    screen.expect("well,")
    tokenizer.stop()
    screen.expect("error: the server went away")
    tokenizer.start()
    ask(screen, "/usr/bin is a folder")
    messages = body(asks(tokenizer)[-1])["messages"]
    assert [message["content"] for message in messages] == ["/usr/bin is a folder"]


def test_a_lost_question_is_asked_again(tokenizer: Any, terminal: Open) -> None:
    screen = terminal("chat")
    ready(screen)
    screen.type("hang on\r")
    screen.expect("well,")
    tokenizer.stop()
    screen.expect("the question is kept: /retry asks it again")
    ready(screen)
    tokenizer.start()
    screen.type("/retry\r")
    screen.expect_that(lambda: len(asks(tokenizer)) == 2)
    assert [body(ask)["messages"] for ask in asks(tokenizer)] == 2 * [
        [{"role": "user", "content": "hang on"}]
    ]


def test_a_paste_during_an_answer_is_a_draft(tokenizer: Any, terminal: Open) -> None:
    screen = terminal("chat")
    ready(screen)
    screen.type("endless\r")
    screen.expect("on and on")
    lines = [f"this is line {n} of a long text\x1b[A" for n in range(400)]
    for line in lines:
        screen.type(f"{line}\r")
        screen.update(0)
    screen.type("\x03")
    screen.expect_that(lambda: "stopped; TTFT" in screen.scrolled)
    screen.expect("line 399 of a long text$")
    assert len(asks(tokenizer)) == 1
    screen.type("\r")
    screen.expect_that(lambda: len(asks(tokenizer)) == 2)
    asked = body(asks(tokenizer)[-1])["messages"][-1]["content"]
    assert asked == "\n".join(line.removesuffix("\x1b[A") for line in lines)


def test_enter_accepts_what_a_search_found(tokenizer: Any, terminal: Open) -> None:
    screen = terminal("chat")
    ask(screen, "a long question")
    ready(screen)
    screen.type("\x12long")
    screen.expect("I-search backward: long")
    screen.type("\r")
    screen.expect_that(lambda: "I-search" not in screen.text)
    assert screen.lines[screen.cursor[0]] == "> a long question"
    assert len(asks(tokenizer)) == 1
    screen.type("\r")
    screen.expect_that(lambda: len(asks(tokenizer)) == 2)
    assert body(asks(tokenizer)[-1])["messages"][-1]["content"] == "a long question"


def test_no_color(tokenizer: Any, terminal: Open) -> None:
    screen = terminal("chat", NO_COLOR="1")
    ask(screen, "hi")
    ready(screen)
    assert not re.search(rb"\x1b\[([0-9;]*;)?(3[0-7]|9[0-7]|38;[0-9;]*)m", screen.raw)
