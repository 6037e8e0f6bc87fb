"""The chat loop on a terminal: questions, answers as growing Markdown, a line of timings."""

from __future__ import annotations

import contextlib
from contextlib import closing
from typing import Any

from rich.console import Console

from bros.brosd.api import ApiError, Client, ClientError
from bros.cli.answer import Answer
from bros.cli.chat import message, opening
from bros.cli.markdown import MarkdownStream
from bros.cli.render import printable

PROMPT = "> "
HELP = """\
/clear  forget the conversation
/help   show this
/exit   leave, as does Ctrl-D
Ctrl-C stops an answer; the conversation goes on."""


def converse(client: Client, body: dict[str, Any], system: str | None) -> None:
    """Ask and answer until the user leaves."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  line editing and history for input()
    conversation = Conversation(client, body, system)
    conversation.say(f"{body['model']} -- /help for help, Ctrl-D to leave")
    while (question := _read()) is not None:
        if question in ("/exit", "/quit"):
            return
        conversation.take(question)


def _read() -> str | None:
    """A line from the user, stripped; None at the end of input."""
    while True:
        try:
            line = input(PROMPT).strip()
        except KeyboardInterrupt:
            print()
        except EOFError:
            print()
            return None
        else:
            if line:
                return line


class Conversation:
    """The messages so far, and the screen."""

    def __init__(self, client: Client, body: dict[str, Any], system: str | None) -> None:
        self._client = client
        self._body = body
        self._opening = opening(system)
        self._messages = [*self._opening]
        self._console = Console(highlight=False)

    def take(self, line: str) -> None:
        """Obey a command, or answer a question."""
        command = line if line.startswith("/") and line[1:].isalpha() else None
        match command:
            case None:
                self._answer(line)
            case "/clear":
                self._messages = [*self._opening]
                self.say("the conversation is forgotten")
            case "/help":
                self.say(HELP)
            case _:
                self.say(f"{command} is no command: /help lists them")

    def say(self, text: str) -> None:
        self._console.print(text, style="dim", markup=False)

    def _answer(self, question: str) -> None:
        """A question that fails leaves the conversation as it was, a stopped answer stays."""
        self._messages.append(message("user", question))
        answer = Answer(self._client, {**self._body, "messages": self._messages})
        try:
            self._show(answer)
        except ClientError as error:
            self._messages.pop()
            self._complain(error)
        else:
            self._remember(answer)

    def _remember(self, answer: Answer) -> None:
        if answer.text:
            self._messages.append(message("assistant", answer.text))
        else:
            self._messages.pop()

    def _show(self, answer: Answer) -> None:
        stopped = ""
        with closing(answer):
            try:
                with MarkdownStream(self._console) as screen:
                    for piece in answer:
                        screen.add(printable(piece))
            except KeyboardInterrupt:
                stopped = "stopped; "
        self.say(f"{stopped}{answer.timings()}")

    def _complain(self, error: ClientError) -> None:
        self._console.print(f"error: {error}", style="red", markup=False)
        if isinstance(error, ApiError) and error.code == "context_length_exceeded":
            self.say("/clear starts a new conversation")
