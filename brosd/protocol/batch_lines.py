"""The lines of an OpenAI Batch file, streamed. It does not judge whether a line is a good request.

Nonblank lines pass unchanged, even if they are not UTF-8. A line that is too large to send is
replaced by a small request with the same `custom_id`, which the server refuses: so it has a result.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

PART_LINES = 500
PART_BYTES = 2**20
MAX_LINE_BYTES = 4 * 2**20
TOO_LARGE_URL = "/line-too-large"
_BOM = b"\xef\xbb\xbf"
_CUSTOM_ID = re.compile(rb'\s*\{\s*"custom_id"\s*:\s*("(?:[^"\\]|\\.){0,512}")')


def read_lines(file: BinaryIO, warn: Callable[[str], None]) -> Iterator[bytes]:
    """Yield nonblank lines without their ends; only one line is in memory at a time."""
    number = 0
    while line := file.readline(MAX_LINE_BYTES):
        number += 1
        if number == 1:
            line = line.removeprefix(_BOM)
        if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
            num_bytes = len(line) + _skip_line(file)
            warn(f"line {number} is too large: {num_bytes} bytes, at most {MAX_LINE_BYTES - 1} fit")
            line = _stand_in(line, number)
        line = line.rstrip(b"\r\n")
        if line and not line.isspace():
            yield line


def _skip_line(file: BinaryIO) -> int:
    """Read up to the end of the line, and return how many bytes that was."""
    num_bytes = 0
    while rest := file.readline(MAX_LINE_BYTES):
        num_bytes += len(rest)
        if rest.endswith(b"\n"):
            break
    return num_bytes


def _stand_in(head: bytes, number: int) -> bytes:
    found = _CUSTOM_ID.match(head)
    custom_id = found[1] if found else b'"line-%d"' % number
    url = TOO_LARGE_URL.encode()
    return b'{"custom_id": %b, "method": "POST", "url": "%b", "body": {}}' % (custom_id, url)


def parts(lines: Iterable[bytes]) -> Iterator[tuple[list[bytes], bool]]:
    """Yield parts within the limits, each with whether it is the last; at least one part."""
    part: list[bytes] = []
    num_bytes = 0
    for line in lines:
        if part and (len(part) == PART_LINES or num_bytes + len(line) > PART_BYTES):
            yield part, False
            part, num_bytes = [], 0
        part.append(line)
        num_bytes += len(line)
    yield part, True
