"""Result lines of a batch job: which failed and why, and tokens and times of the others."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from bros.cli.printable import printable

MAX_SHOWN = 10  # failures on the screen; the results hold all of them
MAX_REASON = 300


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Choice(msgspec.Struct):
    finish_reason: str | None = None


class _Error(msgspec.Struct):
    message: str = ""


class _Body(msgspec.Struct):
    usage: _Usage | None = None
    choices: list[_Choice] = []
    error: _Error | None = None


class _Response(msgspec.Struct):
    status_code: int = 200
    body: _Body | None = None


class _Result(msgspec.Struct):
    custom_id: str | None = None
    response: _Response | None = None
    error: Any = None


_decoder = msgspec.json.Decoder(_Result)


class ResultSummary:
    """Adds up results as they come."""

    def __init__(self) -> None:
        self.failures = 0
        self._prompt_tokens = array("l")
        self._output_tokens = array("l")
        self._after_s = array("d")
        self._reasons: Counter[str] = Counter()

    def add(self, line: bytes, after_s: float | None) -> str | None:
        """Add a result that came `after_s` after submission. Return a text to show if it failed."""
        try:
            result = _decoder.decode(line)
        except msgspec.MsgspecError:
            return None  # a newer server may write it differently; it is still in the results
        if reason := _reason(result):
            self.failures += 1
            return self._say(result.custom_id, reason)
        body = result.response.body if result.response else None
        if body and body.usage:
            self._prompt_tokens.append(body.usage.prompt_tokens)
            self._output_tokens.append(body.usage.completion_tokens)
            self._reasons.update(choice.finish_reason or "?" for choice in body.choices)
        if after_s is not None:
            self._after_s.append(after_s)
        return None

    def _say(self, custom_id: str | None, reason: str) -> str | None:
        if self.failures > MAX_SHOWN:
            return None
        more = "; further ones are only in the results" if self.failures == MAX_SHOWN else ""
        name = printable(custom_id or "a line without custom_id")
        return f"failed: {name}: {printable(reason)[:MAX_REASON]}{more}"

    def table(self) -> Table | None:
        """Return a table of tokens and times of the answered lines; None if there are none."""
        if not self._output_tokens:
            return None
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
        table.add_column("answered lines")
        for name in ("total", "mean", "p50", "p95", "max"):
            table.add_column(name, justify="right")
        table.add_row("prompt tokens", *_figures(self._prompt_tokens))
        table.add_row("output tokens", *_figures(self._output_tokens))
        if self._after_s:
            table.add_row("result after, s", "", *_figures(self._after_s, digits=1)[1:])
        ends = ", ".join(f"{reason} {count:,}" for reason, count in self._reasons.most_common())
        table.caption = f"finished by {ends}"
        table.caption_justify = "left"
        return table


def _reason(result: _Result) -> str | None:
    """Return why a line failed; None if it did not fail."""
    if result.error is not None:
        return str(result.error["message"] if isinstance(result.error, dict) else result.error)
    response = result.response
    if response is None or response.status_code < 400:
        return None
    error = response.body.error if response.body else None
    return error.message if error else f"status {response.status_code}"


def _figures(values: Sequence[float], digits: int = 0) -> list[str]:
    ordered = sorted(values)
    shares = (ordered[int(share * (len(ordered) - 1))] for share in (0.5, 0.95, 1.0))
    figures = (sum(ordered), sum(ordered) / len(ordered), *shares)
    return [f"{figure:,.{digits}f}" for figure in figures]


def show_table(tally: ResultSummary) -> None:
    """Print the table on standard error, as the rest of the summary."""
    if table := tally.table():
        Console(stderr=True, highlight=False).print(table)
