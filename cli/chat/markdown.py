"""Markdown on a terminal that shows every character of its source, once and in order.

The parser treats as markup only what becomes style. A block whose drawing would lose, repeat or
reorder a character, such as a table wider than the screen, is shown as its source.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from markdown_it import MarkdownIt
from markdown_it.rules_inline import StateInline, emphasis
from markdown_it.token import Token
from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import (
    CodeBlock,
    HorizontalRule,
    ListElement,
    ListItem,
    Markdown,
    MarkdownElement,
    TableElement,
)
from rich.rule import Rule
from rich.segment import Segment
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

Line = list[Segment]

MARKUP = frozenset("*`#>|-=:~+")  # the characters that style or structure may stand for
DECORATION = frozenset("•▌─")  # the characters that are drawn in their place
VERBATIM = ("html_block", "html_inline", "reference", "link", "image", "autolink", "entity")
BULLET = "•"
STAR_IN_WORD = re.compile(r"(?<=\w)(?<!\*)\*(?=\w)")  # as in 2*3*4
ESCAPED = re.compile(r"\\[!-/:-@\[-`{-~]")


def aligned(source: str, shown: str) -> int | None:
    """Return the length of the part of `source` that `shown` is a drawing of.

    White space does not count. Return None if `shown` has something that `source` has not, or
    leaves something out that is not markup.
    """
    at = 0
    for char in shown:
        if char.isspace():
            continue
        end = at
        while end < len(source) and source[end] != char and _may_vanish(source[end]):
            end += 1
        if end < len(source) and source[end] == char:
            at = end + 1
        elif char not in DECORATION:
            return None
    return at


def plain(lines: list[Line]) -> str:
    """Return the text of drawn lines."""
    return "\n".join("".join(segment.text for segment in line) for line in lines)


@dataclass(frozen=True)
class Block:
    """A paragraph, heading, item of a list, ... with the blank lines behind it."""

    source: str
    tokens: list[Token]

    def lines(self, console: Console) -> list[Line]:
        """Return the block as it is drawn, or its source if the drawing would lose some of it."""
        options = console.options.update(height=None)
        drawn = console.render_lines(_Styled(self.tokens), options, pad=False)
        drawn = [line for line in drawn if self._is_code or plain([line]).strip()]
        shown = aligned(self.source, plain(drawn))
        if shown is not None and all(map(_may_vanish, self.source[shown:])):
            return drawn
        return self.source_lines(console)

    def source_lines(self, console: Console, begin: int = 0) -> list[Line]:
        """Return the source from a character on, as it stands."""
        options = console.options.update(height=None)
        source = Text(self.source[begin:].strip("\n"), overflow="fold")
        return console.render_lines(source, options, pad=False) if source else []

    def is_apart_from(self, previous: Block) -> bool:
        """Return whether a blank line belongs between the two: not in a list without any."""
        tight = re.search(r"\n[ \t]*\n$", previous.source) is None
        return not (tight and self._is_item and previous._is_item)

    @property
    def _is_item(self) -> bool:
        return self.tokens[0].type.endswith("_list_open")

    @property
    def _is_code(self) -> bool:
        return any(token.type in ("fence", "code_block") for token in self.tokens)


def blocks(text: str) -> list[Block]:
    """Return the blocks of a text; their sources together are the text, unless it is blank."""
    groups: list[list[Token]] = []
    for token in _parser.parse(text):
        for child in token.children or ():
            child.type = "hardbreak" if child.type == "softbreak" else child.type
        _group(groups, token)
    groups = [group for group in groups if len(group) > 1 or group[0].nesting == 0]
    first = [(group[1] if _is_list(group[0]) else group[0]).map or [0] for group in groups]
    begins = [0, *(at.end() for at in re.finditer("\n", text))]
    bounds = [0, *(begins[line[0]] for line in first[1:]), len(text)]
    return [Block(text[bounds[i] : bounds[i + 1]], group) for i, group in enumerate(groups)]


def split_blocks(text: str) -> tuple[str, str]:
    """Return the blocks that no further text can change, and the rest."""
    whole_lines = text[: text.rfind("\n") + 1]
    done = "".join(block.source for block in blocks(whole_lines)[:-1])
    return done, text[len(done) :]


def _group(groups: list[list[Token]], token: Token) -> None:
    """Add a token to the last group, or begin one: each item of an outermost list has its own."""
    if token.level == 0 and token.nesting >= 0:
        groups.append([token])
    elif token.level == 1 and token.type == "list_item_open" and len(groups[-1]) > 1:
        outer = groups[-1][0]
        groups[-1].append(Token(outer.type.replace("open", "close"), outer.tag, -1))
        groups.append([outer, token])
    else:
        groups[-1].append(token)


def _is_list(token: Token) -> bool:
    return token.type.endswith("_list_open")


def _may_vanish(char: str) -> bool:
    return char.isspace() or char in MARKUP


# -- the parser ----------------------------------------------------------------------------------


def _emphasis(state: StateInline, silent: bool) -> bool:
    """Only stars that are not within a word: underscores and products are meant as they stand."""
    if state.src[state.pos] == "_" or STAR_IN_WORD.match(state.src, state.pos):
        return False
    return emphasis.tokenize(state, silent)


def _escape(state: StateInline, silent: bool) -> bool:
    r"""Keep the backslash, as of `\(`; the character behind it is no markup."""
    found = ESCAPED.match(state.src, state.pos, state.posMax)
    if found is None:
        return False
    if not silent:
        state.pending += found[0]
    state.pos = found.end()
    return True


def _new_parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
    parser.disable(VERBATIM)
    parser.inline.ruler.at("emphasis", _emphasis)
    parser.inline.ruler.at("escape", _escape)
    return parser


_parser = _new_parser()


# -- how the parts are drawn ---------------------------------------------------------------------


class _Code(CodeBlock):
    """Code below what its fence says of it."""

    info = ""

    @classmethod
    def create(cls, markdown: Markdown, token: Token) -> _Code:
        code = cls(token.info.partition(" ")[0] or "text", markdown.code_theme)
        code.info = token.info.strip()
        return code

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.info:
            yield Text(self.info, style="dim")
        code = str(self.text).removesuffix("\n")
        yield Syntax(code, self.lexer_name, theme=self.theme, word_wrap=True, padding=(0, 1))


class _Rule(HorizontalRule):
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Rule(style=console.get_style("markdown.hr", default="none"))


class _Item(ListItem):
    """An item with the number that its source gives it."""

    marker = BULLET

    @classmethod
    def create(cls, markdown: Markdown, token: Token) -> _Item:
        item = cls()
        item.marker = f"{token.info}{token.markup}" if token.info else BULLET
        return item

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        kind = "bullet" if self.marker == BULLET else "number"
        style = console.get_style(f"markdown.item.{kind}", default="none")
        margin = f" {self.marker} "
        inner = options.update(width=max(1, options.max_width - cell_len(margin)))
        for line in console.render_lines(self.elements, inner, style=self.style):
            yield Segment(margin, style)
            yield from line
            yield Segment.line()
            margin = " " * cell_len(margin)


class _List(ListElement):
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from self.items


class _Table(TableElement):
    """A table with a line for each row."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = Table(box=box.SIMPLE, pad_edge=False, style="markdown.table.border")
        header = self.header.row.cells if self.header and self.header.row else []
        for cell in header:
            table.add_column(cell.content, justify=cell.justify, no_wrap=True)
        for row in self.body.rows if self.body else []:
            table.add_row(*(cell.content for cell in row.cells))
        yield table


class _Styled(Markdown):
    elements: ClassVar[dict[str, type[MarkdownElement]]] = {
        **Markdown.elements,
        "fence": _Code,
        "code_block": _Code,
        "hr": _Rule,
        "bullet_list_open": _List,
        "ordered_list_open": _List,
        "list_item_open": _Item,
        "table_open": _Table,
    }

    def __init__(self, tokens: list[Token]) -> None:
        super().__init__("", hyperlinks=False)
        self.parsed = tokens
