"""The HTTP server: uvicorn, with time limits for clients that are slow."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from bros.brosd.config import ServerConfig
from bros.brosd.tokenizer.descriptors import DescriptorBudget

BACKLOG = 2048
KEEP_ALIVE_S = 75  # longer than the usual connection pool of a client
BUSY_BODY = b'{"error": {"message": "Too many connections: try again later", "code": "busy"}}'
BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\n"
    b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
) % (len(BUSY_BODY), BUSY_BODY)
LAST_ANSWERS_S = 2  # what streams gets this long when the process is told to stop


class ListenError(RuntimeError):
    """The HTTP address cannot be used; the text says which setting to change."""


def listen(server: ServerConfig) -> socket.socket:
    """A listening socket at the configured address. Raise ListenError if there can be none."""
    host, port = server.host, server.port
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        raise ListenError(
            f"cannot listen on {host} port {port}: {error.strerror}; choose another port with "
            "--set server.port=8001, or another address with --set server.host=127.0.0.1"
        ) from None


class Protocol(HttpToolsProtocol):
    """A connection that is closed if the headers of a request do not come in time.

    It is refused if there are so many that local clients could not be served beside them.
    """

    timeout_s: float  # set by `HttpServer`
    budget: DescriptorBudget
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.budget.fits_http(transport.get_extra_info("socket").fileno()):
            self._arm()
        else:
            transport.write(BUSY)
            transport.close()

    def data_received(self, data: bytes) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self._arm()
        super().data_received(data)

    def on_headers_complete(self) -> None:
        self._disarm()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def _arm(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.timeout_s, self.transport.abort)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class HttpServer(uvicorn.Server):
    """uvicorn without its signal handlers: signals are for the daemon."""

    def __init__(self, app: ASGIApp, header_timeout_s: float) -> None:
        settings: dict[str, Any] = {
            "http": type(
                "Protocol",
                (Protocol,),
                {"timeout_s": header_timeout_s, "budget": DescriptorBudget()},
            ),
            "log_config": None,
            "access_log": False,
            "lifespan": "off",
            "ws": "none",
            "server_header": False,
            "timeout_keep_alive": KEEP_ALIVE_S,
            "timeout_graceful_shutdown": LAST_ANSWERS_S,
        }
        super().__init__(uvicorn.Config(app, **settings))

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
