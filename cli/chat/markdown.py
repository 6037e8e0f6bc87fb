"""Markdown that grows on a terminal without flicker, however long it gets.

Finished blocks are printed for good, so that they scroll; only the last one is redrawn in place.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import dropwhile
from typing import Self

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.markdown import Markdown
from rich.segment import Segment
from rich.spinner import Spinner

FENCES = ("```", "~~~")


class MarkdownStream:
    """A context in which `add` shows more text; what is there at its end stays on the screen."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._tail = ""
        self._printed = False
        self._live = Live(Spinner("dots"), console=console, transient=True, refresh_per_second=12)

    def __enter__(self) -> Self:
        self._live.start(refresh=True)
        return self

    def add(self, piece: str) -> None:
        blocks, self._tail = split_blocks(self._tail + piece)
        if blocks:
            self._console.print(_Blocks(blocks, gap=self._printed))
            self._printed = True
        growing = _Blocks(self._tail, gap=self._printed, max_lines=self._console.height - 1)
        self._live.update(growing)

    def __exit__(self, *error: object) -> None:
        self._live.stop()
        if self._tail.strip():
            self._console.print(_Blocks(self._tail, gap=self._printed))


@dataclass(frozen=True)
class _Blocks:
    """Blocks of Markdown, rendered when they are drawn; of many lines the last `max_lines`.

    One blank line is between blocks, whatever rich puts before some of them.
    """

    text: str
    gap: bool
    max_lines: int | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        unbounded = options.update(height=None)
        lines = console.render_lines(Markdown(self.text), unbounded, pad=False)
        shown = list(dropwhile(_is_blank, lines))
        if self.gap and shown:
            shown.insert(0, [])
        for line in shown[-self.max_lines :] if self.max_lines else shown:
            yield from line
            yield Segment.line()


def _is_blank(line: list[Segment]) -> bool:
    """Nothing to see, not even the background of code."""
    return not any(s.text.strip() or (s.style and s.style.bgcolor) for s in line)


def split_blocks(text: str) -> tuple[str, str]:
    """Text up to the last blank line outside fenced code, and the rest."""
    at = end = 0
    fence = ""
    for line in text.splitlines(keepends=True):
        at += len(line)
        mark = line.strip()[:3]
        if fence:
            fence = "" if mark == fence else fence
        elif mark in FENCES:
            fence = mark
        elif not mark and line.endswith("\n"):
            end = at
    return (text[:end], text[end:]) if text[:end].strip() else ("", text)
