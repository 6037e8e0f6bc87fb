"""Errors as OpenAI's clients know them. An error about a request names the field that is wrong."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.responses import Response

from bros.brosd.tokenizer.jobs.errors import FileError, JobError, StoreError

Json = dict[str, Any]

RETRY_AFTER_S = 1
KINDS = {401: "authentication_error", 429: "rate_limit_error"}
STORE_STATUS = {
    "job_not_found": 404,
    "file_not_found": 404,
    "file_in_use": 409,
    "disk_full": 507,
    "storage_failed": 500,
}


class OpenAIError(Exception):
    """A request cannot be served: an HTTP status and OpenAI's error object."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code

    @property
    def kind(self) -> str:
        """OpenAI's `type` of the error."""
        if self.status in KINDS:
            return KINDS[self.status]
        return "server_error" if self.status >= 500 else "invalid_request_error"

    @property
    def content(self) -> Json:
        error = {
            "message": self.message,
            "type": self.kind,
            "param": self.param,
            "code": self.code,
        }
        return {"error": error}

    @property
    def body(self) -> bytes:
        return msgspec.json.encode(self.content)

    @property
    def headers(self) -> dict[str, str]:
        return {"retry-after": str(RETRY_AFTER_S)} if self.status in (429, 503) else {}


def invalid(param: str, problem: str, code: str = "invalid_value") -> OpenAIError:
    """A 400 about the field `param`."""
    return OpenAIError(400, f"Invalid '{param}': {problem}", param=param, code=code)


def too_large(max_body_bytes: int) -> OpenAIError:
    message = f"The body is larger than {max_body_bytes} bytes (server.max_body_bytes)"
    return OpenAIError(413, message, param="body", code="body_too_large")


def no_such_url(url: str) -> OpenAIError:
    return OpenAIError(404, f"No such URL: {url}", param="url", code="unknown_url")


def shutting_down() -> OpenAIError:
    return OpenAIError(503, "The server is shutting down", code="shutting_down")


def starting() -> OpenAIError:
    return OpenAIError(503, "The server is starting: its model is not loaded yet", code="starting")


def internal() -> OpenAIError:
    message = "The server failed on this request; its log says why"
    return OpenAIError(500, message, code="internal_error")


def of_store(error: StoreError) -> OpenAIError:
    """An error of the store as its client learns of it."""
    param = {JobError: "batch_id", FileError: "file_id"}.get(type(error))
    return OpenAIError(STORE_STATUS.get(error.code, 400), str(error), param=param, code=error.code)


def error_response(error: OpenAIError, headers: dict[str, str] | None = None) -> Response:
    """An error as an HTTP response."""
    headers = {**error.headers, **(headers or {})}
    return Response(error.body, error.status, headers, media_type="application/json")
