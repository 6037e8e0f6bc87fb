"""Find tool calls in an answer's text as it comes, so that no part of a call is sent as text.

Two ways of writing them are known: `<tool_call>{"name": ..., "arguments": ...}</tool_call>`, as
Hermes and Qwen do, and an answer that is one such object and nothing else, as Llama's.
"""

from __future__ import annotations

import json
import re
import uuid
from typing import Any

from bros.brosd.tokenizer.openai.errors import Json
from bros.brosd.tokenizer.openai.structured_output import CLOSE, OPEN

_BLOCK = re.compile(rf"{OPEN}\s*(.*?)\s*(?:{CLOSE}|\Z)", re.DOTALL)


class ToolText:
    """Passes text on until it may be a call; decides at the end about what it held back."""

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names
        self._text = ""
        self._sent = 0

    def push(self, text: str) -> str:
        """The next part of the text that is certainly not in a call."""
        self._text += text
        if self._text.lstrip()[:1] in ("", "{"):
            return ""
        end = self._text.find(OPEN)
        if end < 0:
            end = len(self._text) - _overlap(self._text, OPEN)
        piece = self._text[self._sent : end]
        self._sent = max(self._sent, end)
        return piece

    def finish(self) -> tuple[str, list[Json]]:
        """What is left of the text, and the calls."""
        rest = self._text[self._sent :]
        written = _BLOCK.findall(rest) or [rest]
        calls = [call for text in written if (call := self._call(text))]
        if len(calls) != len(written):
            return rest, []
        return rest[: max(0, rest.find(OPEN))].strip(), calls

    def _call(self, text: str) -> Json | None:
        try:
            found: Any = json.loads(text)
            name = found["name"]
            arguments = found.get("arguments", found.get("parameters", {}))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
        if name not in self._names:
            return None
        written = arguments if isinstance(arguments, str) else json.dumps(arguments)
        function = {"name": name, "arguments": written}
        return {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function}


def _overlap(text: str, marker: str) -> int:
    """How much of the end of `text` may be the beginning of `marker`."""
    longest = min(len(text), len(marker) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(marker[:n])), 0)
