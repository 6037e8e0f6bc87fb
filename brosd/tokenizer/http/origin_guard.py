"""Keep web pages of other sites out, which a browser on this machine may have open.

A page may send a POST of plain text anywhere without asking, and a page whose name is bound to this
server's address anew ("DNS rebinding") may send and read anything. Such a page cannot know a key,
so `Host` is checked only where none is required: there, an `Authorization` header proves nothing,
since a rebound page may set one.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from bros.brosd.config import ServerConfig
from bros.brosd.tokenizer.openai.errors import OpenAIError, error_response

log = logging.getLogger(__name__)

OWN_SITE = ("same-origin", "none")  # of Sec-Fetch-Site; "none" is a user who typed the URL
JSON = "application/json"
FORM = "multipart/form-data"


def guarded(
    app: ASGIApp, server: ServerConfig, needs_keys: bool, form_paths: Collection[str]
) -> ASGIApp:
    """Return the application behind the guard, with CORS headers for configured origins only."""
    if server.cors_origins:
        app = CORSMiddleware(
            app,
            allow_origins=server.cors_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=["x-request-id", "retry-after"],
        )
    return OriginGuard(app, server, needs_keys, form_paths)


class OriginGuard:
    """ASGI middleware. `form_paths` are the URLs whose body is a form; all others take JSON."""

    def __init__(
        self, app: ASGIApp, server: ServerConfig, needs_keys: bool, form_paths: Collection[str]
    ) -> None:
        self._app = app
        self._hosts = {"localhost", *map(_bare, (server.host, *server.allowed_hosts))}
        self._origins = frozenset(server.cors_origins)
        self._needs_keys = needs_keys
        self._form_paths = frozenset(form_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                self._check(scope, Headers(scope=scope))
            except OpenAIError as error:
                log.info("event=refused_origin code=%s", error.code)
                await error_response(error, {"connection": "close"})(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _check(self, scope: Scope, headers: Headers) -> None:
        """Raise OpenAIError (403, 415) if a page of another site may have sent this."""
        if not self._needs_keys:
            for host in headers.getlist("host"):
                self._check_host(host)
        origin = headers.get("origin")
        if origin is None:
            site = headers.get("sec-fetch-site", "none")
            if site not in OWN_SITE:
                raise _foreign(f"A web page of another site ({site})")
            return
        if origin not in self._origins and not _is_own(origin, headers.get("host", "")):
            raise _foreign(f"A web page of {origin[:200]}")
        if scope["method"] == "POST" and _has_body(headers):
            expected = FORM if scope["path"] in self._form_paths else JSON
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != expected:
                message = f"A web page must send this with 'Content-Type: {expected}'"
                raise OpenAIError(415, message, param="body", code="wrong_content_type")

    def _check_host(self, host: str) -> None:
        name = _bare(_without_port(host))
        if name in self._hosts or name.endswith(".localhost") or _is_address(name):
            return
        message = f"This server is not called '{host[:200]}': add its name to server.allowed_hosts"
        raise OpenAIError(403, message, param="host", code="unknown_host")


def _foreign(who: str) -> OpenAIError:
    message = f"{who} may not use this server: add its origin to server.cors_origins"
    return OpenAIError(403, message, param="origin", code="unknown_origin")


def _bare(name: str) -> str:
    return name.strip().strip("[]").lower().removesuffix(".")


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() and (":" not in name or name[-1] == "]") else host


def _is_address(name: str) -> bool:
    """Whether it is a numeric address: no name can be bound to it anew."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_own(origin: str, host: str) -> bool:
    """Whether the page came from the address that it asks now, as it names it."""
    try:
        return bool(host) and urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:
        return False


def _has_body(headers: Headers) -> bool:
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
