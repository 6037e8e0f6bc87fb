"""What is on the screen in the end, apart from its colours."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
