"""What is on the screen in the end, apart from its colours."""

from __future__ import annotations

import io
import re

import pyte
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from bros.cli.chat.markdown import MarkdownStream, split_blocks
from bros.cli.printable import printable
from bros.cli.render import duration, short, size


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (41.6, "0:42"), (59.6, "1:00"), (3723, "1:02:03"), (273_900, "3d 4h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_large_numbers() -> None:
    assert [short(n) for n in (9_999, 12_345, 4_500_000)] == ["9,999", "12.3k", "4.5M"]
    assert [size(n) for n in (0, 1023, 1536, 3 * 2**40)] == ["0 B", "1023 B", "1.5 KiB", "3.0 TiB"]


@given(st.text())
def test_printable_text_has_no_controls(text: str) -> None:
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", printable(text))


def test_control_characters_are_shown() -> None:
    assert printable("a\tb\r\n\x1b[31mé\x07") == "a\tb\n␛[31mé␇"
    assert printable("\x9b\u202e👩\u200d🚀") == "\\x9b\\u202e👩\u200d🚀"


fragments = st.lists(st.sampled_from(["text", "\n", "\n\n", "```", "~~~", " "]), max_size=20)


@given(fragments)
def test_blocks_split_where_markdown_allows(pieces: list[str]) -> None:
    text = "".join(pieces)
    head, tail = split_blocks(text)
    assert head + tail == text
    if head:
        assert head.strip()
        assert re.search(r"\n[ ]*\n$", "\n" + head)


def test_fenced_code_is_one_block() -> None:
    text = "intro\n\n```py\na\n\nb\n"
    assert split_blocks(text) == ("intro\n\n", "```py\na\n\nb\n")
    assert split_blocks(text + "```\n\nend") == (text + "```\n\n", "end")


def drawn(console: Console, *, rows: int) -> list[str]:
    """Return what a terminal shows of what was written so far."""
    assert isinstance(console.file, io.StringIO)
    screen = pyte.Screen(console.width, rows)
    pyte.Stream(screen).feed(console.file.getvalue().replace("\n", "\r\n"))
    return [line.strip() for line in screen.display]


def terminal(rows: int) -> Console:
    return Console(
        file=io.StringIO(), width=40, height=rows, force_terminal=True, color_system=None
    )


def test_blocks_are_a_blank_line_apart_however_they_come() -> None:
    text = "Tips:\n\n1. Sleep\n\n2. Eat\n\n# Then\n\nDone.\n"
    console = terminal(24)
    with MarkdownStream(console) as stream:
        for letter in text:
            stream.add(letter)
    lines = drawn(console, rows=24)
    assert lines[:9] == ["Tips:", "", "1 Sleep", "", "2 Eat", "", "Then", "", "Done."]


def test_a_block_larger_than_the_screen_shows_its_end() -> None:
    console = terminal(8)
    with MarkdownStream(console) as stream:
        stream.add("```text\n" + "".join(f"line {n}\n" for n in range(30)))
        stream._live.refresh()
        growing = drawn(console, rows=8)
    assert "line 29" in growing
    assert "line 3" not in growing
    whole = drawn(console, rows=60)
    assert [f"line {n}" for n in range(30)] == [line for line in whole if line.startswith("line")]
