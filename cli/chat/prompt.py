"""The line where questions are typed: several lines, history across sessions, completion."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition, is_searching
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.styles import Style

PROMPT = "> "
CONTINUATION = ". "
QUOTES = '"""'
MENU_ROWS = 6
STYLE = Style.from_dict({"bottom-toolbar": "noreverse fg:ansibrightblack", "prompt": "bold"})

Complete = Callable[[str], Iterable[tuple[str, str]]]


class _Completer(Completer):
    """Completes the last word of a slash command; `complete` returns words and their meanings."""

    def __init__(self, complete: Complete) -> None:
        self._complete = complete

    def get_completions(self, document: Document, event: CompleteEvent) -> Iterable[Completion]:
        line = document.text_before_cursor
        if not line.startswith("/") or "\n" in line:
            return
        word = line.split(" ")[-1]
        for text, meaning in self._complete(line):
            if text.startswith(word):
                yield Completion(text, start_position=-len(word), display_meta=meaning)


class Prompt:
    """Reads questions from the terminal; `status` is shown below the question."""

    def __init__(self, history: Path, complete: Complete, status: Callable[[], str]) -> None:
        self._session: PromptSession[str] = PromptSession(
            history=_history(history),
            completer=_Completer(complete),
            complete_while_typing=Condition(self._is_command),
            multiline=True,
            key_bindings=_keys(),
            prompt_continuation=lambda width, line, wrapped: "" if wrapped else CONTINUATION,
            bottom_toolbar=lambda: f" {status()}",
            reserve_space_for_menu=MENU_ROWS,
            style=STYLE,
            enable_history_search=False,
        )

    def _is_command(self) -> bool:
        return self._session.default_buffer.text.startswith("/")

    def read(self, draft: str = "") -> str | None:
        """Return a question, stripped, that begins as a draft; None at the end of input.

        Ctrl-C begins a new one.
        """
        while True:
            try:
                text = self._session.prompt(PROMPT, default=draft)
            except KeyboardInterrupt:
                draft = ""
                continue
            except EOFError:
                return None
            if text := unquoted(text):
                return text
            draft = ""


def unfinished(text: str) -> bool:
    """Whether Enter starts a new line: after a backslash, and within triple quotes."""
    if text.startswith(QUOTES):
        return text.count(QUOTES) < 2
    return text.endswith("\\")


def unquoted(text: str) -> str:
    """Return the question without the quotes and backslashes that continued its lines."""
    text = text.strip()
    if text.startswith(QUOTES):
        return text.removeprefix(QUOTES).removesuffix(QUOTES).strip()
    return text.replace("\\\n", "\n")


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter", filter=~is_searching)
    def _enter(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.complete_state and buffer.complete_state.current_completion:
            buffer.complete_state = None  # keep the chosen word, and do not send the line
        elif unfinished(buffer.text):
            buffer.newline(copy_margin=False)
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    @keys.add("c-j")
    def _newline(event: KeyPressEvent) -> None:
        event.current_buffer.newline(copy_margin=False)

    return keys


def _history(path: Path) -> History:
    """Return the user's history; this session's alone if the file cannot be written."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError:
        return InMemoryHistory()
    return FileHistory(path)
