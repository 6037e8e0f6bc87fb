"""Markdown that grows on a terminal without flicker, however long it gets.

Lines that have no room on the screen, and blocks that are complete, are printed for good, so that
they scroll. Only the rest is redrawn in place.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.segment import Segment
from rich.spinner import Spinner

from bros.cli.chat.markdown import Block, Line, aligned, blocks, plain, split_blocks


class MarkdownStream:
    """A context in which `add` shows more text; what is there at its end stays on the screen."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._tail = _Tail()
        self._live = Live(Spinner("dots"), console=console, transient=True, refresh_per_second=12)

    def __enter__(self) -> Self:
        self._live.start(refresh=True)
        return self

    def add(self, piece: str) -> None:
        self._tail = replace(self._tail, text=self._tail.text + piece)
        if "\n" in piece or len(self._tail.text) > self._console.width:
            self._settle()
        self._live.update(_Growing(self._tail))

    def __exit__(self, *error: object) -> None:
        self._tail = self._tail.continued(self._console)
        self._live.stop()
        self._print(self._tail.unprinted(self._console))

    def _settle(self) -> None:
        """Print what is complete, and what the screen has no room for."""
        tail = self._tail.continued(self._console)
        done, _ = split_blocks(tail.text)
        if done:
            self._print(replace(tail, text=done).unprinted(self._console))
            tail = tail.after(done, self._console)
        lines = tail.unprinted(self._console)
        above = lines[: max(0, len(lines) - _room(self._console))]
        self._print(above)
        self._tail = replace(tail, printed=[*tail.printed, *above])

    def _print(self, lines: list[Line]) -> None:
        if lines:
            self._console.print(_Lines(lines), end="")


@dataclass(frozen=True)
class _Tail:
    """The last blocks of a text, of which the first lines may be printed already."""

    text: str = ""
    previous: Block | None = None
    printed: list[Line] | tuple[Line, ...] = ()
    cut: int = 0  # so many characters are printed apart from that; what follows is shown as it is

    def continued(self, console: Console) -> _Tail:
        """Return the tail to go on with: if the printed lines would now be others, cut there.

        That happens where they depend on what follows, and where the terminal has a new width.
        """
        count = len(self.printed)
        if plain(self._lines(console)[:count]) == plain(list(self.printed)):
            return self
        more = aligned(self.text[self.cut :], plain(list(self.printed))) or 0
        return replace(self, printed=(), cut=self.cut + more)

    def after(self, done: str, console: Console) -> _Tail:
        """Return the tail without its first blocks, which are wholly printed."""
        lines = len(replace(self, text=done)._lines(console))
        cut = max(0, self.cut - len(done))
        rest = self.text[len(done) :]
        return _Tail(rest, blocks(done)[-1], self.printed[lines:], cut)

    def unprinted(self, console: Console) -> list[Line]:
        """Return the lines that are not printed."""
        return self._lines(console)[len(self.printed) :]

    def _lines(self, console: Console) -> list[Line]:
        lines: list[Line] = []
        previous, cut = self.previous, self.cut
        for block in blocks(self.text):
            if cut:
                lines += block.source_lines(console, cut)
            else:
                gap = previous is not None and block.is_apart_from(previous)
                lines += [[]] * gap + block.lines(console)
            previous, cut = block, max(0, cut - len(block.source))
        return lines


@dataclass(frozen=True)
class _Growing:
    """What is not printed of a tail, as far as the screen has room for it."""

    tail: _Tail

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield _Lines(self.tail.unprinted(console)[-_room(console) :])


@dataclass(frozen=True)
class _Lines:
    lines: list[Line]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in self.lines:
            yield from line
            yield Segment.line()


def _room(console: Console) -> int:
    """Return the lines that can be redrawn in place: the cursor needs one, too."""
    return max(1, console.height - 1)
