"""Markdown that grows on a terminal without flicker, however long it gets.

Finished blocks are printed for good, so that they scroll; only the last one is redrawn in place.
"""

from __future__ import annotations

from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markdown import Markdown
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
            self._console.print(self._rendered(blocks))
            self._printed = True
        self._live.update(self._rendered(self._tail))

    def __exit__(self, *error: object) -> None:
        self._live.stop()
        if self._tail.strip():
            self._console.print(self._rendered(self._tail))

    def _rendered(self, text: str) -> RenderableType:
        shown = Markdown(text)
        return Group("", shown) if self._printed and text.strip() else shown


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
