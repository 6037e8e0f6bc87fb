"""What is typed or pasted while an answer comes: kept as a draft, never sent by itself."""

from __future__ import annotations

import os
import re
import select
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread

CHUNK_BYTES = 4096
KEYS = re.compile(r"\x1b(\[[0-9;?]*[ -/]*[@-~]|O.|.)?")  # arrows, and the ends of a paste
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


class TypedAhead:
    """Reads the terminal in a thread, so that it never fills up: Ctrl-C always arrives."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._typed = bytearray()
        self._ended, self._end = os.pipe()
        self._thread = Thread(target=self._read, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Return after all that has been typed so far is read."""
        os.close(self._end)
        self._thread.join()
        os.close(self._ended)

    @property
    def draft(self) -> str:
        """Return the text without keys that are no text."""
        text = self._typed.decode(errors="replace").replace("\r\n", "\n").replace("\r", "\n")
        return CONTROLS.sub("", KEYS.sub("", text)).rstrip("\n")

    def _read(self) -> None:
        while self._fd in select.select([self._fd, self._ended], [], [])[0]:
            try:
                piece = os.read(self._fd, CHUNK_BYTES)
            except OSError:
                piece = b""
            if not piece:
                return  # the terminal is gone
            self._typed += piece


@contextmanager
def typed_ahead(keep: Callable[[str], None]) -> Iterator[None]:
    """Read what is typed, unseen, until the end of the context, and `keep` the draft."""
    fd = sys.stdin.fileno()
    try:
        before = termios.tcgetattr(fd)
    except termios.error:
        yield
        return
    silent = [*before]
    silent[3] &= ~(termios.ECHO | termios.ICANON)  # Ctrl-C stays a signal, ...
    silent[3] |= termios.NOFLSH  # ... which does not discard what was typed before it
    keys = TypedAhead(fd)
    keys.start()
    try:
        termios.tcsetattr(fd, termios.TCSADRAIN, silent)
        yield
    finally:
        keys.stop()
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
        keep(keys.draft)
