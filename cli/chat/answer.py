"""One streamed chat answer: its text as it comes, and its timings."""

from __future__ import annotations

import time
from typing import Any, Self

from bros.brosd.client.client import Client

URL = "/v1/chat/completions"


class Answer:
    """Iterate over it for the text, then read the timings. To close it early stops the request."""

    def __init__(self, client: Client, body: dict[str, Any]) -> None:
        streamed = {**body, "stream": True, "stream_options": {"include_usage": True}}
        self._chunks = client.ask(URL, streamed)
        self._asked_s = time.monotonic()
        self._first_s: float | None = None
        self._last_s: float | None = None
        self._max_tokens = body.get("max_tokens")
        self.text = ""
        self.pieces = 0  # of text, each of at least one token
        self.finish_reason: str | None = None
        self.output_tokens: int | None = None  # None if the answer was stopped
        self.total_tokens: int | None = None  # prompt included

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        while True:
            chunk = next(self._chunks)
            if usage := chunk.get("usage"):
                self.output_tokens = usage["completion_tokens"]
                self.total_tokens = usage["total_tokens"]
            for choice in chunk.get("choices", ()):
                self.finish_reason = choice.get("finish_reason") or self.finish_reason
                if piece := choice.get("delta", {}).get("content"):
                    return self._take(piece)

    def _take(self, piece: str) -> str:
        self._last_s = time.monotonic()
        self._first_s = self._first_s or self._last_s
        self.text += piece
        self.pieces += 1
        return piece

    def close(self) -> None:
        self._chunks.close()

    @property
    def ttft_s(self) -> float | None:
        """Time from the question to the first text."""
        return None if self._first_s is None else self._first_s - self._asked_s

    @property
    def tpot_s(self) -> float | None:
        """Mean time of a token after the first."""
        if self._first_s is None or self._last_s is None or (self.output_tokens or 0) < 2:
            return None
        return (self._last_s - self._first_s) / ((self.output_tokens or 0) - 1)

    @property
    def tokens_per_s(self) -> float | None:
        """Output tokens over the time from the question to the last text."""
        if self._last_s is None or not self.output_tokens:
            return None
        return self.output_tokens / (self._last_s - self._asked_s)

    def timings(self) -> str:
        """Return `TTFT 85 ms, TPOT 31 ms, 64 tokens, 29.8 tokens/s`, without what is not known."""
        parts = []
        if self.finish_reason == "length":
            by_request = self._max_tokens is not None and self._max_tokens == self.output_tokens
            parts.append(f"cut off by {'max_tokens' if by_request else 'the limit of tokens'}")
        if self.ttft_s is not None:
            parts.append(f"TTFT {self.ttft_s * 1000:.0f} ms")
        if self.tpot_s is not None:
            parts.append(f"TPOT {self.tpot_s * 1000:.1f} ms")
        if self.output_tokens is not None:
            parts.append(f"{self.output_tokens} tokens")
        if self.tokens_per_s is not None:
            parts.append(f"{self.tokens_per_s:.1f} tokens/s")
        return ", ".join(parts) or "no text"

    def summary(self) -> dict[str, Any]:
        """Return the answer and its timings, for `--json`."""
        return {
            "answer": self.text,
            "ttft_s": self.ttft_s,
            "tpot_s": self.tpot_s,
            "output_tokens": self.output_tokens,
            "tokens_per_s": self.tokens_per_s,
            "finish_reason": self.finish_reason,
        }
