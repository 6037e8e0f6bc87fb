"""How much of a request may be something else than its body, and the errors when it is more."""

from __future__ import annotations

from bros.brosd.tokenizer.openai.errors import OpenAIError

MAX_HEAD_BYTES = 64 * 1024
MAX_URL_BYTES = 8 * 1024
MAX_HEADERS = 128  # trailers included
FRAMING_PER_BODY_BYTE = 8  # a chunk of one byte takes five more


class HeadLimits:
    """Counts one request's bytes. Its methods raise OpenAIError when there are too many."""

    def __init__(self) -> None:
        self.in_body = False
        self._url_bytes = 0
        self._header_bytes = 0
        self._num_headers = 0
        self._body_bytes = 0
        self._all_bytes = 0

    def on_url(self, url: bytes) -> None:
        self._url_bytes += len(url)
        if self._url_bytes > MAX_URL_BYTES:
            message = f"The URL is longer than {MAX_URL_BYTES} bytes"
            raise OpenAIError(414, message, param="url", code="url_too_long")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._num_headers += 1
        self._header_bytes += len(name) + len(value)
        if self._num_headers > MAX_HEADERS:
            raise _too_large(f"more than {MAX_HEADERS} headers")
        if self._header_bytes > MAX_HEAD_BYTES:
            raise _too_large(f"more than {MAX_HEAD_BYTES} bytes")

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)

    def on_received(self, num_bytes: int) -> None:
        """Count bytes that the parser has taken, whatever they were: a name without an end too."""
        self._all_bytes += num_bytes
        framing = self._all_bytes - self._body_bytes
        if framing > MAX_HEAD_BYTES + FRAMING_PER_BODY_BYTE * self._body_bytes:
            raise _too_large(f"more than {MAX_HEAD_BYTES} bytes beside the body")


def _too_large(problem: str) -> OpenAIError:
    message = f"The headers of this request are too large: {problem}"
    return OpenAIError(431, message, param="headers", code="headers_too_large")
