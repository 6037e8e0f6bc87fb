"""The lines that `bros submit` sends, from a file or from standard input."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import BinaryIO

from bros.brosd.protocol.batch_lines import read_lines
from bros.cli.errors import InputError


@contextmanager
def open_lines(name: str) -> Iterator[Iterator[bytes]]:
    """Open the lines of a file (`-`: standard input). Raise InputError if there are none."""
    if name == "-":
        yield _nonempty(sys.stdin.buffer, "standard input")
        return
    with open(name, "rb") as file:
        yield _nonempty(file, name)


def _nonempty(file: BinaryIO, name: str) -> Iterator[bytes]:
    lines = read_lines(file, _warn)
    first = next(lines, None)
    if first is None:
        raise InputError(f"{name} has no lines: expected one JSON request per line")
    return chain([first], lines)


def _warn(reason: str) -> None:
    print(f"warning: {reason}; it was not sent and counts as failed", file=sys.stderr)
