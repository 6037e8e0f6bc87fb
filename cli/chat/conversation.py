"""A conversation: what was said, how it is asked for, and its way to a file and back."""

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
    """One message; bytes that the terminal's encoding could not read become U+FFFD."""
    return {
        "role": role,
        "content": content.encode(errors="surrogateescape").decode(errors="replace"),
    }


@dataclass
class Conversation:
    """`messages` are without the system message. Whether parameters are good, the server says."""

    model: str
    system: str | None = None
    params: dict[str, Any] = field(default_factory=dict)
    messages: list[Message] = field(default_factory=list)

    def body(self) -> dict[str, Any]:
        """The request for the next answer."""
        params = {name: value for name, value in self.params.items() if name not in OBJECTIVES}
        slo = {name: value for name, value in self.params.items() if name in OBJECTIVES}
        opening = [] if self.system is None else [message("system", self.system)]
        body = {"model": self.model, **params, "messages": [*opening, *self.messages]}
        return {**body, "slo": slo} if slo else body

    def ask(self, question: str) -> None:
        """Say something."""
        self.messages.append(message("user", question))

    def answered(self, text: str) -> None:
        """Remember an answer; a question without one is forgotten."""
        if text:
            self.messages.append(message("assistant", text))
        else:
            self.take_back()

    def take_back(self) -> str | None:
        """Forget the last question, with its answer; what it was."""
        while self.messages:
            last = self.messages.pop()
            if last["role"] == "user":
                return last["content"]
        return None

    def set_param(self, name: str, text: str) -> None:
        """Set a parameter from its text, or unset it with `default`. InputError if it is none."""
        if name not in PARAMS:
            raise InputError(f"{name} is no parameter; there are {', '.join(PARAMS)}")
        if text == DEFAULT:
            self.params.pop(name, None)
            return
        try:
            self.params[name] = NUMBERS.get(name, str)(text)
        except ValueError:
            raise InputError(f"{name} is a number, and {text!r} is none") from None

    def objective_s(self, name: str, otherwise_s: float) -> float:
        """This conversation's objective, which the daemon has unless it is a parameter."""
        own_ms = self.params.get(f"{name}_ms")
        return otherwise_s if own_ms is None else float(own_ms) / 1000


class ConversationStore:
    """Saved conversations, by name, in a folder of the user's."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def names(self) -> list[str]:
        """What there is, in order."""
        return sorted(path.stem for path in self._folder.glob("*.json"))

    def save(self, name: str, conversation: Conversation) -> Path:
        """Write a conversation, over one of the same name."""
        path = self._path(name)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        content = msgspec.json.format(msgspec.json.encode(asdict(conversation)), indent=2)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(content + b"\n")
        return path

    def load(self, name: str) -> Conversation:
        """A saved conversation. InputError if there is none, or it cannot be read."""
        path = self._path(name)
        try:
            return msgspec.json.decode(path.read_bytes(), type=Conversation)
        except FileNotFoundError:
            known = ", ".join(self.names()) or "none so far"
            raise InputError(f"there is no conversation {name}; saved: {known}") from None
        except msgspec.MsgspecError as error:
            raise InputError(f"{path} is no saved conversation: {error}") from None

    def _path(self, name: str) -> Path:
        """A name is one of the folder's; anything with a slash is a path."""
        if "/" in name:
            return Path(name).expanduser()
        if not re.fullmatch(r"[\w.-]+", name):
            raise InputError(f"{name!r} is no name: letters, digits, '-', '_' and '.' make one")
        return self._folder / f"{name}.json"
