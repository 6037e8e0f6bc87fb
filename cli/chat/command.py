"""`bros chat` begins here: a conversation on a terminal, or one question from a script."""

from __future__ import annotations

import os
import stat
import sys
from contextlib import closing
from dataclasses import dataclass

from bros.brosd.client.client import Client, Stats
from bros.brosd.config import user_dir
from bros.cli.chat.answer import Answer
from bros.cli.chat.conversation import Conversation
from bros.cli.errors import InputError
from bros.cli.printable import printable
from bros.cli.render import print_json
from bros.cli.target import Target

CONVERSATION_TEMPERATURE = 0.2  # small models ramble above this; scripts get 0


@dataclass(frozen=True)
class ChatOptions:
    """What is sent with every question of a chat."""

    model: str | None
    system: str | None
    temperature: float | None
    max_tokens: int | None


def chat(target: Target, options: ChatOptions, once: str | None, *, json: bool) -> None:
    """Answer one question (`once`, or all of a piped standard input), else converse."""
    if once is None and sys.stdin is None:
        raise InputError("standard input is closed: use --once QUESTION")
    if once is None and sys.stdin.isatty():
        if json or not sys.stdout.isatty():
            raise InputError("there is no question: use --once QUESTION, or pipe one in")
        from bros.cli.chat.repl import converse

        with target.connect() as client:
            stats = client.status()
            chosen = conversation(stats, target, options, CONVERSATION_TEMPERATURE)
            converse(client, stats, chosen, user_dir())
        return
    question = read_question(once)
    with target.connect() as client:
        chosen = conversation(client.status(), target, options, temperature=0.0)
        _answer_once(client, chosen, question, json)


def one_question(argument: str | None, once: str | None) -> str | None:
    """Return the question of a command line. Raise InputError if there are two."""
    if argument is not None and once is not None:
        raise InputError("there are two questions: give one, with or without --once")
    return once if argument is None else argument


def read_question(once: str | None) -> str:
    """Return the question of `--once`, with what is piped in below it, or that alone.

    Raise InputError if it is blank.
    """
    piped = ""
    if once is None or _is_piped():
        piped = sys.stdin.buffer.read().decode(errors="replace").strip()
    question = "\n\n".join(part for part in (once, piped) if part)
    if not question.strip():
        raise InputError("the question is empty")
    return question


def _is_piped() -> bool:
    """Return whether standard input is a pipe or a file, not a terminal, a device or nothing."""
    if sys.stdin is None:
        return False
    mode = os.fstat(sys.stdin.fileno()).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)


def conversation(
    stats: Stats | None, target: Target, options: ChatOptions, temperature: float
) -> Conversation:
    """Return an empty conversation; `temperature` is used if the options choose none."""
    chosen = temperature if options.temperature is None else options.temperature
    params: dict[str, float | int] = {"temperature": chosen}
    if options.max_tokens is not None:
        params["max_tokens"] = options.max_tokens
    return Conversation(options.model or target.model(stats), options.system, dict(params))


def _answer_once(client: Client, conversation: Conversation, question: str, json: bool) -> None:
    conversation.ask(question)
    clean = printable if sys.stdout.isatty() else str
    with closing(Answer(client, conversation.body())) as answer:
        for piece in answer:
            if not json:
                print(clean(piece), end="", flush=True)
    if json:
        print_json(answer.summary())
    else:
        print(flush=True)
        print(answer.timings(), file=sys.stderr)
