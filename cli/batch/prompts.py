"""Prompt files: CSV or plain text, turned into the lines of an OpenAI Batch file."""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import msgspec

from bros.brosd.protocol.batch_lines import MAX_LINE_BYTES
from bros.cli.batch.lines import open_lines
from bros.cli.errors import InputError

FORMATS = ("auto", "jsonl", "csv", "tsv", "text")
SUFFIXES = {".csv": "csv", ".tsv": "tsv", ".txt": "text"}
PROMPT = "prompt"  # the name of a line of plain text in a template
CUSTOM_ID = "custom_id"  # the column that names a row, if it exists
URL = "/v1/chat/completions"
_PLACE = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class PromptOptions:
    """How prompts become requests; in an OpenAI Batch file, the lines state all of this."""

    format: str = "auto"
    column: str | None = None
    template: str | None = None
    system: str | None = None
    params: Mapping[str, Any] | None = None

    def format_of(self, file: str) -> str:
        """Return the format of a file. Raise InputError if it, or an option with it, is wrong."""
        if self.format not in FORMATS:
            raise InputError(f"--format {self.format}: choose one of {', '.join(FORMATS)}")
        suffix = Path(file).suffix.lower()
        chosen = SUFFIXES.get(suffix, "csv" if self.column else "jsonl")
        chosen = chosen if self.format == "auto" else self.format
        if chosen == "jsonl" and (self.template or self.column or self.system or self.params):
            raise InputError(
                f"{file} is read as an OpenAI Batch file, which takes no options for prompts: "
                "if it has prompts, give --format csv, tsv or text"
            )
        if chosen == "text" and self.column:
            raise InputError("--prompt-column is for CSV: plain text has a prompt per line")
        return chosen


@contextmanager
def open_requests(
    file: str, options: PromptOptions, model: Callable[[], str]
) -> Iterator[Iterator[bytes]]:
    """Open the lines to submit, which are read as they are sent. Raise InputError if none is there.

    `model` is called only if lines must be made from prompts.
    """
    kind = options.format_of(file)
    if kind == "jsonl":
        with open_lines(file) as lines:
            yield lines
        return
    if file == "-":
        yield _requests(sys.stdin.buffer, kind, options, model())
        return
    with open(file, "rb") as source:
        yield _requests(source, kind, options, model())


def _requests(source: BinaryIO, kind: str, options: PromptOptions, model: str) -> Iterator[bytes]:
    text = io.TextIOWrapper(source, encoding="utf-8-sig", errors="replace", newline="")
    pairs = _text(text, options) if kind == "text" else _csv(text, kind, options)
    first = next(pairs, None)
    if first is None:
        raise InputError("there are no prompts: expected one per line, below a header if it is CSV")
    return _encoded([first], pairs, options, model)


def _encoded(
    first: Iterable[tuple[str, str]],
    rest: Iterator[tuple[str, str]],
    options: PromptOptions,
    model: str,
) -> Iterator[bytes]:
    opening = [] if options.system is None else [{"role": "system", "content": options.system}]
    for pairs in (first, rest):
        for custom_id, prompt in pairs:
            messages = [*opening, {"role": "user", "content": prompt}]
            body = {"model": model, **(options.params or {}), "messages": messages}
            yield msgspec.json.encode(
                {"custom_id": custom_id, "method": "POST", "url": URL, "body": body}
            )


# -- the formats --------------------------------------------------------------------------------


def _text(source: TextIO, options: PromptOptions) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(source, start=1):
        if prompt := line.strip():
            yield f"line-{number}", _filled(options.template, {PROMPT: prompt}, PROMPT)


def _csv(source: TextIO, kind: str, options: PromptOptions) -> Iterator[tuple[str, str]]:
    csv.field_size_limit(MAX_LINE_BYTES)
    reader = csv.DictReader(
        source, delimiter="\t" if kind == "tsv" else ",", restval="", strict=True
    )
    try:
        columns = list(reader.fieldnames or ())
        column = _column(columns, options)
        for number, row in enumerate(reader, start=1):
            prompt = _filled(options.template, row, column)
            if prompt.strip():
                yield row.get(CUSTOM_ID) or f"row-{number}", prompt
    except csv.Error as error:
        raise InputError(f"the CSV breaks after line {reader.line_num}: {error}") from None


def _column(columns: list[str], options: PromptOptions) -> str:
    """Return the column that holds the prompt. Raise InputError if that is ambiguous."""
    known = ", ".join(columns) or "none"
    if options.column is not None:
        if options.column not in columns:
            raise InputError(f"there is no column {options.column}; there are: {known}")
        return options.column
    if options.template is not None or PROMPT in columns:
        return PROMPT
    if len(columns) == 1:
        return columns[0]
    raise InputError(f"which column holds the prompt? choose with --prompt-column: {known}")


def _filled(template: str | None, row: Mapping[str, str], column: str) -> str:
    """Return the template with each {column} replaced by the row's value."""
    if template is None:
        return row[column]
    values = {PROMPT: row.get(column, ""), **row}

    def value(place: re.Match[str]) -> str:
        if place[1] not in values or (place[1] == PROMPT and column not in row):
            known = ", ".join(f"{{{name}}}" for name in row)
            raise InputError(f"the template has {place[0]}, which is none of {known}")
        return values[place[1]]

    return _PLACE.sub(value, template)
