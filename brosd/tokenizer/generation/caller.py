"""The trace context that an HTTP request came with, for the requests that it becomes."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar

CONTEXT_HEADERS = ("traceparent", "tracestate")

caller: ContextVar[Mapping[str, str]] = ContextVar("caller", default={})  # noqa: B039
"""The context of the current task's request; nobody changes it."""


def note_caller(headers: Mapping[str, str]) -> None:
    """Remember the trace context of the HTTP request that this task answers."""
    if found := {name: headers[name] for name in CONTEXT_HEADERS if name in headers}:
        caller.set(found)
