"""What a batch job is: its row, its lines, their outcomes, and files. Stores keep them."""

from __future__ import annotations

import json
from dataclasses import dataclass

import msgspec

OPEN_STATES = ("validating", "in_progress", "finalizing", "cancelling")


@dataclass(frozen=True)
class JobSpec:
    """What a job that comes as an uploaded file is to do, in the words of its client."""

    endpoint: str
    input_file: str
    window: str
    metadata: str | None
    expires_s: float


@dataclass(frozen=True)
class Job:
    """Everything about a job but its lines. Times are Unix times; None if it has not happened."""

    id: int
    name: str
    state: str
    created_s: float
    total: int
    completed: int
    failed: int
    prompt_tokens: int
    output_tokens: int
    endpoint: str | None
    input_file: str | None
    window: str | None
    metadata: str | None
    problem: str | None  # why it failed: a JSON object with code, message, line
    expires_s: float | None
    started_s: float | None
    cancelling_s: float | None
    finalizing_s: float | None
    ended_s: float | None
    input_bytes: int
    output_bytes: int
    error_bytes: int


@dataclass(frozen=True)
class Line:
    """A line that has no result yet."""

    job: int
    number: int
    content: bytes
    is_duplicate: bool  # an earlier line of the job has its custom_id
    endpoint: str | None  # the only URL that the job takes; None for any


@dataclass(frozen=True)
class Outcome:
    """The result of one line, as an output line."""

    job: int
    number: int
    result: bytes
    ok: bool
    prompt_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True)
class File:
    """A file's row. `job` and `part` name the rows that it is made of; None for an upload."""

    name: str
    filename: str
    purpose: str
    bytes: int
    created_s: float
    expires_s: float | None
    job: int | None
    part: str | None


class _CustomId(msgspec.Struct):
    custom_id: str


def custom_id_of(line: bytes) -> str | None:
    """The `custom_id` of a line, even if the rest of the line is wrong."""
    try:
        return msgspec.json.decode(line, type=_CustomId).custom_id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        found = json.loads(line).get("custom_id")
        found.encode()
    except (ValueError, AttributeError, RecursionError):
        return None
    return found if isinstance(found, str) else None
