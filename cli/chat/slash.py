"""Slash commands of a chat: what each does, and how its words are completed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from bros.brosd.client.client import ClientError, Stats
from bros.cli.chat.conversation import DEFAULT, PARAMS, Conversation, ConversationStore
from bros.cli.chat.tally import ConversationTotals
from bros.cli.errors import InputError
from bros.cli.slo import attainment

KEYS = """\
Enter sends. Alt-Enter or a backslash at the end begins a new line, and so does
Enter within triple quotes. Ctrl-C stops an answer, Ctrl-D leaves."""


def is_command(line: str) -> bool:
    """Whether a line is meant for the program: a slash and a word, not a path."""
    return re.match(r"/[a-z]+(\s|$)", line) is not None


class Session(Protocol):
    """The part of a chat that the commands use."""

    conversation: Conversation
    shelf: ConversationStore
    tally: ConversationTotals
    over: bool
    unanswered: str | None

    @property
    def max_len(self) -> int: ...

    def say(self, text: str) -> None: ...

    def complain(self, error: Exception) -> None: ...

    def daemon(self) -> Stats | None: ...

    def answer(self, question: str) -> None: ...


@dataclass(frozen=True)
class Action:
    """A command: `run` gets the rest of the line; `words` completes it."""

    usage: str
    help: str
    run: Callable[[str], None]
    words: Callable[[], Iterable[str]] = tuple


class Slash:
    """The commands of one chat."""

    def __init__(self, chat: Session) -> None:
        self._chat = chat
        saved, params = chat.shelf.names, lambda: PARAMS
        self._commands = {
            "/system": Action("[TEXT]", "the system message; default drops it", self._system),
            "/model": Action("[NAME]", "the model to ask", self._model),
            "/params": Action("[NAME VALUE]", "sampling and objectives", self._params, params),
            "/save": Action("NAME", "save the conversation", self._save, saved),
            "/load": Action("NAME", "continue a saved conversation", self._load, saved),
            "/retry": Action("", "answer the last question again", self._retry),
            "/clear": Action("", "forget the conversation", self._clear),
            "/stats": Action("", "figures of this session and of the daemon", self._stats),
            "/help": Action("", "show this", self._help),
            "/exit": Action("", "leave, as does Ctrl-D", self._exit),
        }  # fmt: skip

    def run(self, line: str) -> None:
        """Run a command; print an error on the screen."""
        name, _, rest = line.partition(" ")
        command = self._commands.get("/exit" if name in ("/quit", "/bye") else name)
        if command is None:
            self._chat.say(f"{name} is no command: /help lists them")
            return
        try:
            command.run(rest.strip())
        except (InputError, ClientError, OSError) as error:
            self._chat.complain(error)

    def complete(self, line: str) -> Iterable[tuple[str, str]]:
        """Return the words that could end the line, and what they mean."""
        name, space, rest = line.partition(" ")
        if not space:
            return [(name, command.help) for name, command in self._commands.items()]
        if name not in self._commands or " " in rest:
            return []
        return [(word, "") for word in self._commands[name].words()]

    # -- the commands ----------------------------------------------------------------------------

    def _system(self, text: str) -> None:
        conversation = self._chat.conversation
        if text:
            conversation.system = None if text == DEFAULT else text
        self._chat.say(f"system message: {conversation.system or 'none'}")

    def _model(self, name: str) -> None:
        conversation = self._chat.conversation
        stats = self._chat.daemon()
        if stats and name and name != stats.model:
            raise InputError(
                f"{name} is not served here, {stats.model} is: "
                f"restart with 'brosd start --model {name}'"
            )
        conversation.model = name or conversation.model
        self._chat.say(f"model: {conversation.model}, up to {self._chat.max_len:,} tokens")

    def _params(self, text: str) -> None:
        name, _, value = text.partition(" ")
        params = self._chat.conversation.params
        if value:
            self._chat.conversation.set_param(name, value.strip())
        elif name:
            raise InputError(f"a value is missing: /params {name or 'NAME'} VALUE, or {DEFAULT}")
        shown = ", ".join(f"{key} {params[key]}" for key in PARAMS if key in params)
        self._chat.say(f"parameters: {shown or 'all as the server has them'}")

    def _save(self, name: str) -> None:
        if not name:
            raise InputError("a name is missing: /save NAME")
        self._chat.say(f"saved as {self._chat.shelf.save(name, self._chat.conversation)}")

    def _load(self, name: str) -> None:
        if not name:
            raise InputError("a name is missing: /load NAME")
        loaded = self._chat.shelf.load(name)
        loaded.model = self._chat.conversation.model  # the model that is served now
        self._chat.conversation = loaded
        self._chat.unanswered = None
        self._chat.say(f"{name}: {len(loaded.messages)} messages")
        if loaded.messages:
            last = loaded.messages[-1]
            self._chat.say(f"{last['role']}: {last['content'][:200]}")

    def _retry(self, _: str) -> None:
        conversation = self._chat.conversation
        question = self._chat.unanswered
        if question is None:
            question = conversation.take_back()
            conversation.context = 0  # not known without the answer
        if question is None:
            raise InputError("there is no question yet")
        self._chat.answer(question)

    def _clear(self, _: str) -> None:
        self._chat.conversation.clear()
        self._chat.unanswered = None
        self._chat.say("the conversation is forgotten")

    def _stats(self, _: str) -> None:
        self._chat.say(f"this session: {self._chat.tally.summary()}")
        stats = self._chat.daemon()
        if stats is None:
            return
        rt, be = stats.rt, stats.be
        share = attainment(rt)
        met = "-" if share is None else f"{share:.1%}"
        self._chat.say(
            f"the daemon: real-time {rt.running} running, {rt.waiting} waiting, SLO met {met}; "
            f"best-effort {be.running} running, {be.waiting} waiting"
        )

    def _help(self, _: str) -> None:
        width = max(len(f"{name} {c.usage}") for name, c in self._commands.items())
        for name, command in self._commands.items():
            self._chat.say(f"{f'{name} {command.usage}':<{width}}  {command.help}")
        self._chat.say(KEYS)

    def _exit(self, _: str) -> None:
        self._chat.over = True
