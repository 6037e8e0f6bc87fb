"""A conversation: its messages and parameters, the request they make, and how it is saved."""

from __future__ import annotations

import os
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from bros.cli.errors import InputError

Message = dict[str, str]
NUMBERS = {
    "temperature": float,
    "top_p": float,
    "top_k": int,
    "min_p": float,
    "max_tokens": int,
    "seed": int,
    "repetition_penalty": float,
    "frequency_penalty": float,
    "presence_penalty": float,
    "ttft_ms": float,
    "tpot_ms": float,
}
OBJECTIVES = ("ttft_ms", "tpot_ms")
PARAMS = (*NUMBERS, "stop")
DEFAULT = "default"  # the value that unsets a parameter


def message(role: str, content: str) -> Message:
    """Return one message; bytes that the terminal's encoding could not decode become U+FFFD."""
    return {
        "role": role,
        "content": content.encode(errors="surrogateescape").decode(errors="replace"),
    }


@dataclass
class Conversation:
    """`messages` are without the system message. The server checks the parameters."""

    model: str
    system: str | None = None
    params: dict[str, Any] = field(default_factory=dict)
    messages: list[Message] = field(default_factory=list)
    context: int = 0  # its tokens after the last answer
    context_is_least: bool = False  # a stopped answer does not tell how long the prompt was

    def body(self) -> dict[str, Any]:
        """Return the request for the next answer."""
        params = {name: value for name, value in self.params.items() if name not in OBJECTIVES}
        slo = {name: value for name, value in self.params.items() if name in OBJECTIVES}
        opening = [] if self.system is None else [message("system", self.system)]
        body = {"model": self.model, **params, "messages": [*opening, *self.messages]}
        return {**body, "slo": slo} if slo else body

    def ask(self, question: str) -> None:
        """Add a question."""
        self.messages.append(message("user", question))

    def answered(self, text: str) -> None:
        """Remember an answer; if it is empty, forget the question."""
        if text:
            self.messages.append(message("assistant", text))
        else:
            self.take_back()

    def count(self, total_tokens: int | None, pieces: int) -> None:
        """Note how long the conversation is after an answer, which came in so many pieces."""
        self.context_is_least = total_tokens is None
        self.context = self.context + pieces if total_tokens is None else total_tokens

    def clear(self) -> None:
        """Forget what was said."""
        self.messages.clear()
        self.context, self.context_is_least = 0, False

    def status(self, max_len: int) -> list[str]:
        """Return pieces of a status line; the context can have `max_len` tokens, 0 if unknown."""
        least = "at least " if self.context_is_least else ""
        context = f"context {least}{self.context:,} of {max_len:,} tokens"
        return [self.model, context] if max_len else [self.model]

    def take_back(self) -> str | None:
        """Forget the last question and its answer. Return the question; None if there is none."""
        while self.messages:
            last = self.messages.pop()
            if last["role"] == "user":
                return last["content"]
        return None

    def set_param(self, name: str, text: str) -> None:
        """Set a parameter from text; `default` unsets it. Raise InputError if either is wrong."""
        if name not in PARAMS:
            raise InputError(f"{name} is no parameter; there are {', '.join(PARAMS)}")
        if text == DEFAULT:
            self.params.pop(name, None)
            return
        try:
            self.params[name] = NUMBERS.get(name, str)(text)
        except ValueError:
            raise InputError(f"{name} must be a number, not {text!r}") from None

    def objective_s(self, name: str, otherwise_s: float) -> float:
        """Return this conversation's objective in seconds, or `otherwise_s` if it has none."""
        own_ms = self.params.get(f"{name}_ms")
        return otherwise_s if own_ms is None else float(own_ms) / 1000


class ConversationStore:
    """Saved conversations, by name, in a folder of the user."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def names(self) -> list[str]:
        """Return the names of all saved conversations, sorted."""
        return sorted(path.stem for path in self._folder.glob("*.json"))

    def save(self, name: str, conversation: Conversation) -> Path:
        """Write a conversation and return its file; one of the same name is replaced."""
        path = self._path(name)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        content = msgspec.json.format(msgspec.json.encode(asdict(conversation)), indent=2)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(content + b"\n")
        return path

    def load(self, name: str) -> Conversation:
        """Return a saved conversation. Raise InputError if it is missing or cannot be read."""
        path = self._path(name)
        try:
            return msgspec.json.decode(path.read_bytes(), type=Conversation)
        except FileNotFoundError:
            known = ", ".join(self.names()) or "none so far"
            raise InputError(f"there is no conversation {name}; saved: {known}") from None
        except msgspec.MsgspecError as error:
            raise InputError(f"{path} is no saved conversation: {error}") from None

    def _path(self, name: str) -> Path:
        """Return the file of a name, which lies in the folder unless the name has a slash."""
        if "/" in name:
            return Path(name).expanduser()
        if not re.fullmatch(r"[\w.-]+", name):
            raise InputError(f"{name!r} is no name: use letters, digits, '-', '_' and '.'")
        return self._folder / f"{name}.json"
