"""A program on a terminal of a given size: type keys, and read what a user would see."""

from __future__ import annotations

import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from fcntl import ioctl
from pathlib import Path

import pyte

DEADLINE_S = 30.0
POLL_S = 0.2


class _Screen(pyte.HistoryScreen):
    """Answers what programs ask a terminal, such as where its cursor is."""

    def __init__(self, fd: int, columns: int, rows: int) -> None:
        super().__init__(columns, rows, history=2000, ratio=0.5)
        self._fd = fd

    def write_process_input(self, data: str) -> None:
        os.write(self._fd, data.encode())


class Terminal:
    """Runs `command` until it ends or `close` is called."""

    def __init__(
        self,
        command: Sequence[str],
        environ: Mapping[str, str],
        folder: Path,
        columns: int = 80,
        rows: int = 24,
    ) -> None:
        self._fd, child = pty.openpty()
        ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self._screen = _Screen(self._fd, columns, rows)
        self._stream = pyte.ByteStream(self._screen)
        self.raw = b""
        self.process = subprocess.Popen(
            command,
            stdin=child,
            stdout=child,
            stderr=child,
            cwd=folder,
            env={**environ, "TERM": "xterm-256color"},
            preexec_fn=lambda: os.login_tty(child),
        )
        os.close(child)

    def type(self, keys: str) -> None:
        os.write(self._fd, keys.encode())

    @property
    def lines(self) -> list[str]:
        """Return the screen without the blanks at the ends of lines."""
        return [line.rstrip() for line in self._screen.display]

    @property
    def text(self) -> str:
        """Return the screen as one string."""
        return "\n".join(self.lines)

    @property
    def columns(self) -> int:
        return int(self._screen.columns)

    def cells(self, row: int) -> list[pyte.screens.Char]:
        """Return the characters of a line with their colours and styles."""
        return [self._screen.buffer[row][column] for column in range(self.columns)]

    @property
    def cursor(self) -> tuple[int, int]:
        """Return row and column."""
        return self._screen.cursor.y, self._screen.cursor.x

    @property
    def scrolled(self) -> str:
        """Return the lines that have left the screen at its top, and those on the screen."""
        top = self._screen.history.top
        lines = ["".join(line[x].data for x in range(self._screen.columns)) for line in top]
        return "\n".join([*(line.rstrip() for line in lines), *self.lines])

    def expect(self, pattern: str) -> str:
        """Wait until the screen matches, and return it."""
        found = re.compile(pattern, re.DOTALL | re.MULTILINE).search
        return self.expect_that(lambda: found(self.text) is not None, pattern)

    def expect_that(self, condition: Callable[[], bool], what: str = "what was waited for") -> str:
        """Wait until the condition holds, and return the screen."""
        deadline_s = time.monotonic() + DEADLINE_S
        while not condition():
            left_s = deadline_s - time.monotonic()
            assert left_s > 0, f"{what!r} is not on the screen:\n{self.text}"
            self.update(min(left_s, POLL_S))
        return self.text

    def wait(self) -> int:
        """Wait until the program ends by itself, and return its exit code."""
        deadline_s = time.monotonic() + DEADLINE_S
        while self.process.poll() is None:
            assert time.monotonic() < deadline_s, f"it does not end:\n{self.text}"
            self.update(POLL_S)
        self.update(0)
        return self.process.wait()

    def update(self, timeout_s: float) -> None:
        """Read what the program writes within the time."""
        if select.select([self._fd], [], [], timeout_s)[0]:
            try:
                data = os.read(self._fd, 65536)
            except OSError:  # the program has closed its end
                time.sleep(0.01)
                return
            self.raw += data
            self._stream.feed(data)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._fd)
