"""Markdown on a screen: every character that the model said, once and in order."""

from __future__ import annotations

import io
import random
import unicodedata

import pyte
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from bros.cli.chat.markdown import blocks, split_blocks
from bros.cli.chat.stream import MarkdownStream
from bros.cli.printable import printable

JOINED = "👩\u200d🚀"
UNJOINED = {ord(char): None for char in JOINED[:2]}  # the emulator cannot draw them as one
WIDTHS = (24, 60, 100)
MARKUP = frozenset("*`#>|-=:~+")  # may be shown as style or structure
DRAWN = frozenset("•▌─")  # may stand for them
# fmt: off
PIECES = [
    "word", "two words", "naïve café", "x_1", "__init__", "a_b_c", "_under_", "2 * 3", "2*3*4",
    "**bold**", "*italic*", "***both***", "**open", "~~gone~~", "`code`", "`` a`b ``", "`open",
    "<br>", "<think>why?</think>", "<!-- note -->", "&amp;", "&#27;", "<b>x</b>", "<p", "C# ",
    r"\(x^2\)", r"\[y\]", r"\*", r"\\", "\\", "$a_1$", "[a](http://b/c)", "![i](u.png)", "1. x",
    "[r]: http://x", "[r][1]", "<http://a/%1b%5d0;evil>", "http://x/_y_", "a|b", "| a | b |",
    "漢字かな交じり", "한국어", "中文。", "**粗体**字", "é", "🚀", JOINED, "✅ done", "#tag", "- y",
    "\x1b[31mred", "\x07", "\x9b0m", "\u202eabc", "\x00", "C:\\path", "+ z", "f(x) -> y",
    "a = b", "x" * 70, "•", "─", "▌", "tab\tbed",
]
STARTS = [
    "", "", "", "# ", "## ", "###### ", "- ", "* ", "+ ", "1. ", "7) ", "03. ", "  - ", "   1. ",
    "> ", "> > ", ">> - ", "- [ ] ", "    ", "\t", "> " * 25, "- " * 25, "- > 1. ",
]
BLOCKS = [
    "---", "***", "___", "===", "```", "~~~~", "```py title=x", "````md", "", "", "|---|---|",
    "| a | b |\n|---|:-:|\n| 1 | <br> |", "|a|\n|-|\n|1|2|", "x | y\n-|-\n\\| | 漢",
    "```c\nint *p = &x; // #1\n\n}\n```", "1. a\n   ```sh\n   ls | wc -l\n   ```",
    "```\n\x1b]0;t\x07\n```",
]
# fmt: on


def generated(seed: int) -> str:
    """Return a text of markdown, HTML, code, other scripts and control characters."""
    choose = random.Random(seed)
    lines = []
    for _ in range(choose.randint(1, 12)):
        if choose.random() < 0.3:
            lines.append(choose.choice(BLOCKS))
        else:
            words = choose.choices(PIECES, k=choose.randint(1, 8))
            lines.append(choose.choice(STARTS) + choose.choice([" ", " ", ""]).join(words))
        lines.append(choose.choice(["\n", "\n", "\n\n", "  \n"]))
    return "".join(lines)


def shown(text: str, *, width: int, rows: int = 8, step: int | None = None) -> str:
    """Return all that scrolled, and the screen, after a text that came in pieces."""
    console = Console(file=io.StringIO(), width=width, height=rows, force_terminal=True)
    step = step or len(text)
    with MarkdownStream(console) as stream:
        for begin in range(0, len(text), step):
            stream.add(printable(text[begin : begin + step]))
            stream._live.refresh()
    assert isinstance(console.file, io.StringIO)
    return emulated(console.file.getvalue(), width, rows)


def emulated(written: str, width: int, rows: int) -> str:
    """Return what a terminal has above its screen and on it."""
    assert "\x1b]" not in written  # no hyperlinks, no titles
    screen = pyte.HistoryScreen(width, rows, history=10_000)
    pyte.Stream(screen).feed(written.translate(UNJOINED).replace("\n", "\r\n"))
    top = ["".join(line[x].data for x in range(width)).rstrip() for line in screen.history.top]
    return "\n".join([*top, *(line.rstrip() for line in screen.display)])


def visible(text: str, without: frozenset[str] = MARKUP | DRAWN) -> str:
    """Return the characters that take room on a screen and are nobody's markup."""
    composed = unicodedata.normalize("NFC", text.translate(UNJOINED))
    room = (char for char in composed if unicodedata.category(char) not in ("Mn", "Cf", "Zs", "Cc"))
    return "".join(char for char in room if char not in without)


@pytest.mark.parametrize("width", WIDTHS)
def test_every_character_is_shown_once_and_in_order(width: int) -> None:
    for seed in range(200):
        text = generated(seed)
        assert visible(shown(text, width=width, rows=50)) == visible(printable(text)), seed


def test_code_higher_than_the_screen_is_shown_once() -> None:
    code = "".join(f"line {n} = ''' * {n} ** 2\n" for n in range(40))
    for text in (f"Look:\n```python\n{code}```\nDone.\n", f"1. Look:\n   ```\n{indented(code)}"):
        lines = [line.strip() for line in shown(text, width=40, rows=8, step=5).splitlines()]
        for line in code.splitlines():
            assert sum(line in each for each in lines) == 1, line
        assert visible("".join(lines), DRAWN | {"`"}) == visible(text, DRAWN | {"`"})


def test_the_end_of_what_grows_is_seen() -> None:
    console = Console(file=io.StringIO(), width=40, height=8, force_terminal=True)
    assert isinstance(console.file, io.StringIO)
    with MarkdownStream(console) as stream:
        stream.add("```text\n" + "".join(f"line {n}\n" for n in range(30)))
        stream._live.refresh()
        growing = emulated(console.file.getvalue(), 40, 8).splitlines()
    assert [line.strip() for line in growing] == ["text", *(f"line {n}" for n in range(30))]


def indented(code: str) -> str:
    return "".join(f"   {line}\n" for line in code.splitlines())


@pytest.mark.parametrize("width", WIDTHS)
def test_text_that_grows_is_shown_once_and_in_order_too(width: int) -> None:
    for seed in range(30):
        text = generated(seed).replace(JOINED, "🚀")
        assert visible(shown(text, width=width, step=7)) == visible(printable(text)), seed


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("a <br> b\n<think>hm</think>\n\nc", ["a <br> b", "<think>hm</think>", "", "c"]),
        ("one\ntwo  \nthree\\\nfour", ["one", "two", "three\\", "four"]),
        (r"\(x_1\) \[y\] \* &amp;", [r"\(x_1\) \[y\] \* &amp;"]),
        ("__init__ _x_ 2*3*4 **b** *i* `c` ~~s~~", ["__init__ _x_ 2*3*4 b i c s"]),
        ("[t](http://u) <http://a/%1b%5d0;x>", ["[t](http://u) <http://a/%1b%5d0;x>"]),
        ("3. x\n3. y\n\n07) z", [" 3. x", " 3. y", "", " 07) z"]),
        ("- a\n  - b\n\n> q\n> r", [" • a", "    • b", "", "▌ q", "▌ r"]),
        ("```py file=x\na\n\n  b\n```", ["py file=x", " a", "", "   b"]),
        ("# T\n## U\n\n---", ["T".rjust(20), "", "U", "", "─" * 40]),
        ("|a|b|\n|-|-:|\n|1|22|", [" a    b", " ──────", " 1   22"]),
        ("|a|b|\n|-|-|\n|1|2|3|", ["|a|b|", "|-|-|", "|1|2|3|"]),
        (f"|a|\n|-|\n|{'x' * 50}|", ["|a|", "|-|", f"|{'x' * 39}", f"{'x' * 11}|"]),
    ],
)
def test_how_it_looks(text: str, lines: list[str]) -> None:
    for step in (1, len(text)):
        assert shown(text, width=40, rows=24, step=step).rstrip("\n").splitlines() == lines


lines_of_markdown = st.lists(
    st.sampled_from([*STARTS, *BLOCKS, "text", "\n", "\n\n", "- a\n", "2. b\n", "> q\n", "  c\n"])
).map("".join)


@given(lines_of_markdown)
def test_finished_blocks_stay_what_they_are(text: str) -> None:
    done, rest = split_blocks(text)
    assert done + rest == text
    sources = [block.source for block in blocks(text)]
    assert [block.source for block in [*blocks(done), *blocks(rest)]] == sources
    assert "".join(sources) in (text, "")
