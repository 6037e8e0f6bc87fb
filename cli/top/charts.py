"""Charts made of characters: a series of numbers as bars, a block table as a map."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

BARS = " ▁▂▃▄▅▆▇█"
ASCII_BARS = " .:-=+*#@"
STYLES = {"R": "green", "B": "blue", "S": "cyan", "X": "yellow", "c": "bright_black", ".": "dim"}


def is_unicode(console: Console) -> bool:
    """Whether the terminal can show more than ASCII."""
    return console.encoding.lower().startswith("utf")


def bars(values: Sequence[float], width: int, height: int, *, unicode: bool = True) -> list[str]:
    """Return the latest values as columns of `height` lines; the highest value fills its column."""
    levels = BARS if unicode else ASCII_BARS
    steps = len(levels) - 1
    shown = list(values[-width:]) if width > 0 else []
    top = max(shown, default=0.0)
    filled = [round(value / top * height * steps) if top > 0 else 0 for value in shown]
    filled = [max(level, 1) if value > 0 else 0 for level, value in zip(filled, shown, strict=True)]
    lines = []
    for row in range(height - 1, -1, -1):
        cells = (levels[min(steps, max(0, level - row * steps))] for level in filled)
        lines.append("".join(cells).rjust(width))
    return lines


def block_map(cells: str, width: int, max_rows: int, console: Console) -> list[Text]:
    """Return a map of the block table in at most `max_rows` rows, spaced out if there is room."""
    space = " " if 2 * len(cells) <= width * max_rows else ""
    width //= 1 + len(space)
    shown = shrink(cells, width * max_rows)
    rows = []
    for at in range(0, len(shown), width):
        row = Text()
        for letter in shown[at : at + width]:
            row.append(glyph(letter, console) + space, STYLES[letter])
        rows.append(row)
    return rows


def glyph(letter: str, console: Console) -> str:
    """Return how a cell looks: a letter if the terminal has no colours."""
    if console.color_system is None or console.no_color or not is_unicode(console):
        return letter
    return "·" if letter == "." else "■"


def shrink(cells: str, max_cells: int) -> str:
    """Return at most `max_cells` cells, each with the commonest letter of those it stands for."""
    if len(cells) <= max_cells:
        return cells
    each = -(-len(cells) // max_cells)
    groups = (cells[at : at + each] for at in range(0, len(cells), each))
    return "".join(Counter(group).most_common(1)[0][0] for group in groups)
