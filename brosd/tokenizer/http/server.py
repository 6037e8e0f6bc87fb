"""The HTTP server: uvicorn on connections that are bounded in bytes and in time."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from bros.brosd.config import ServerConfig
from bros.brosd.tokenizer.descriptors import DescriptorBudget
from bros.brosd.tokenizer.http.connection import Connection

BACKLOG = 2048
KEEP_ALIVE_S = 75  # longer than the usual connection pool of a client
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


class HttpServer(uvicorn.Server):
    """uvicorn without its signal handlers: signals are for the daemon."""

    def __init__(self, app: ASGIApp, server: ServerConfig) -> None:
        settings: dict[str, Any] = {
            "http": type(
                "ServerConnection",
                (Connection,),
                {
                    "header_timeout_s": server.header_timeout_s,
                    "send_timeout_s": server.send_timeout_s,
                    "budget": DescriptorBudget(),
                },
            ),
            "log_config": None,
            "access_log": False,
            "lifespan": "off",
            "ws": "none",
            "server_header": False,
            "proxy_headers": False,  # a client could forge the address that its limits go by
            "timeout_keep_alive": KEEP_ALIVE_S,
            "timeout_graceful_shutdown": LAST_ANSWERS_S,
        }
        super().__init__(uvicorn.Config(app, **settings))

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
