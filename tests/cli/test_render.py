"""What ends up on the screen, apart from its colours."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bros.cli.chat.markdown import split_blocks
from bros.cli.render import duration, printable


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (41.6, "0:42"), (59.6, "1:00"), (3723, "1:02:03"), (273_900, "3d 4h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@given(st.text())
def test_printable_text_has_no_controls(text: str) -> None:
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", printable(text))


def test_printable_text_keeps_the_rest() -> None:
    assert printable("a\tb\n\x1b[31mé\x07") == "a\tb\n[31mé"


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
