"""Why a daemon cannot be asked or does not answer, in one line for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from bros.brosd.protocol.wire import Refused


class ClientError(RuntimeError):
    """The daemon cannot be asked; the text is one line that says why and what to do."""


class NotRunning(ClientError):
    """Nobody serves this runtime folder."""

    def __init__(self, runtime: Path) -> None:
        super().__init__(
            f"no daemon runs in {runtime}: start it with 'brosd start', "
            "or set BROS_RUNTIME_DIR to its folder"
        )


class ConnectionLost(ClientError):
    """The tokenizer went away while it streamed."""


class ApiError(ClientError):
    """The server refused or failed a request; `error` is the OpenAI error object."""

    def __init__(self, status: int, error: dict[str, Any]) -> None:
        self.status = status
        self.error = error
        super().__init__(str(error.get("message") or f"the server answered {status}"))

    @property
    def code(self) -> str:
        return str(self.error.get("code") or "")


def api_error(status: int, content: bytes) -> ApiError:
    """Return the error in the body of an answer."""
    try:
        error = msgspec.json.decode(content)["error"]
        return ApiError(status, error if isinstance(error, dict) else {"message": str(error)})
    except (msgspec.DecodeError, KeyError, TypeError):
        return ApiError(status, {"message": content.decode(errors="replace")[:500]})


def refused(refusal: Refused) -> ApiError:
    """Return a refusal as an error."""
    return ApiError(400, {"code": refusal.code, "message": refusal.message})


def unexpected(what: str) -> ClientError:
    """Return the error for an answer that only another version of the daemon can have sent."""
    return ClientError(
        f"the daemon sent {what}, which this command does not understand: "
        "install the same version of both"
    )
