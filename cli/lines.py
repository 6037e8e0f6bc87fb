"""The lines of an OpenAI Batch file, streamed. Whether a line is a good request, the server says.

Nonblank lines pass as they are, even if they are not UTF-8. A line too large to send passes as a
small request with the same `custom_id` that the server refuses, so that it has a result as well.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import BinaryIO

from bros.cli.errors import InputError

MAX_LINE_BYTES = 4 * 2**20
_BOM = b"\xef\xbb\xbf"
_CUSTOM_ID = re.compile(rb'\s*\{\s*"custom_id"\s*:\s*("(?:[^"\\]|\\.){0,512}")')


@contextmanager
def open_lines(name: str) -> Iterator[Iterator[bytes]]:
    """The lines of a file, or of standard input for `-`. InputError if there are none."""
    if name == "-":
        yield _nonempty(sys.stdin.buffer, "standard input")
        return
    with open(name, "rb") as file:
        yield _nonempty(file, name)


def _nonempty(file: BinaryIO, name: str) -> Iterator[bytes]:
    lines = read_lines(file)
    first = next(lines, None)
    if first is None:
        raise InputError(f"{name} has no lines: expected one JSON request per line")
    return chain([first], lines)


def read_lines(file: BinaryIO) -> Iterator[bytes]:
    """Nonblank lines without their ends; never more than one line in memory."""
    number = 0
    while line := file.readline(MAX_LINE_BYTES):
        number += 1
        if number == 1:
            line = line.removeprefix(_BOM)
        if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
            line = _stand_in(line, number, len(line) + _skip_line(file))
        line = line.rstrip(b"\r\n")
        if line and not line.isspace():
            yield line


def _skip_line(file: BinaryIO) -> int:
    """Read up to the end of the line; how many bytes that was."""
    num_bytes = 0
    while rest := file.readline(MAX_LINE_BYTES):
        num_bytes += len(rest)
        if rest.endswith(b"\n"):
            break
    return num_bytes


def _stand_in(head: bytes, number: int, num_bytes: int) -> bytes:
    reason = f"line {number} is too large: {num_bytes} bytes, at most {MAX_LINE_BYTES - 1} can be"
    print(f"warning: {reason}; it was not sent and counts as failed", file=sys.stderr)
    found = _CUSTOM_ID.match(head)
    custom_id = found[1] if found else b'"line-%d"' % number
    return b'{"custom_id": %b, "method": "POST", "url": "/line-too-large", "body": {}}' % custom_id
