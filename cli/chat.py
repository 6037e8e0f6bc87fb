"""`bros chat`: real-time questions, in a loop on a terminal, or one at a time in scripts."""

from __future__ import annotations

import sys
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from bros.brosd.api import Client
from bros.cli.answer import Answer
from bros.cli.errors import InputError
from bros.cli.render import print_json, printable
from bros.cli.target import Target


@dataclass(frozen=True)
class ChatOptions:
    """What every question of a chat is sent with."""

    model: str | None
    system: str | None
    temperature: float
    max_tokens: int | None


def chat(target: Target, options: ChatOptions, once: str | None, *, json: bool) -> None:
    """Answer one question (`once`, or all of a piped standard input), else converse."""
    if once is None and sys.stdin.isatty():
        if json or not sys.stdout.isatty():
            raise InputError("there is no question: use --once QUESTION, or pipe one in")
        from bros.cli.repl import converse

        with target.connect() as client:
            converse(client, body(client, target, options), options.system)
        return
    question = read_question(once)
    with target.connect() as client:
        _answer_once(client, body(client, target, options), options.system, question, json)


def read_question(once: str | None) -> str:
    """The question of `--once`, or the whole standard input. InputError if it is blank."""
    question = sys.stdin.buffer.read().decode(errors="replace") if once is None else once
    if not question.strip():
        raise InputError("the question is empty")
    return question.strip() if once is None else question


def body(client: Client, target: Target, options: ChatOptions) -> dict[str, Any]:
    """The request, but for its messages."""
    model = options.model
    if model is None:
        stats = client.status()
        model = stats.model if stats else target.load().model.name
    body: dict[str, Any] = {"model": model, "temperature": options.temperature}
    return body if options.max_tokens is None else {**body, "max_tokens": options.max_tokens}


def message(role: str, content: str) -> dict[str, str]:
    """One message; bytes that the terminal's encoding could not read become U+FFFD."""
    return {
        "role": role,
        "content": content.encode(errors="surrogateescape").decode(errors="replace"),
    }


def opening(system: str | None) -> list[dict[str, str]]:
    """What a conversation begins with."""
    return [] if system is None else [message("system", system)]


def _answer_once(
    client: Client, body: dict[str, Any], system: str | None, question: str, json: bool
) -> None:
    body["messages"] = [*opening(system), message("user", question)]
    clean = printable if sys.stdout.isatty() else str
    with closing(Answer(client, body)) as answer:
        for piece in answer:
            if not json:
                print(clean(piece), end="", flush=True)
    if json:
        print_json(answer.summary())
    else:
        print(flush=True)
        print(answer.timings(), file=sys.stderr)
