"""One HTTP connection: it ends if its client sends too much, or sends or reads too slowly."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from http import HTTPStatus

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from bros.brosd.tokenizer.descriptors import DescriptorBudget
from bros.brosd.tokenizer.http.head_limits import HeadLimits
from bros.brosd.tokenizer.openai.errors import OpenAIError

log = logging.getLogger(__name__)

SLICE_BYTES = 16 * 1024  # parsed at a time, so that limits count before a name grows long
LINGER_S = 1.0  # many clients read only when they have sent all
LEAST_READ_BYTES = 64 * 1024  # of a long answer, within `send_timeout_s`


class Connection(HttpToolsProtocol):
    """uvicorn's connection, with limits. It is refused if there are so many that local clients
    could not be served beside them.
    """

    header_timeout_s: float  # these are set by `HttpServer`
    send_timeout_s: float
    budget: DescriptorBudget
    _limits = HeadLimits()
    _refusal: OpenAIError | None = None
    _ended = False  # refused: what still comes is thrown away
    _head_deadline: asyncio.TimerHandle | None = None
    _read_deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._limits = HeadLimits()
        if self.budget.fits_http(transport.get_extra_info("socket").fileno()):
            self._arm()
        else:
            transport.write(BUSY)
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        self._forget_reader()
        super().connection_lost(exc)

    # -- what comes in ---------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self._arm()
        for start in range(0, len(data), SLICE_BYTES):
            if self._ended or self.transport.is_closing():
                return
            piece = data[start : start + SLICE_BYTES]
            super().data_received(piece)
            self._count(len(piece))

    def _count(self, num_bytes: int) -> None:
        """Count bytes that have been parsed, unless parsing them has ended the connection."""
        if self._ended:
            return
        try:
            self._limits.on_received(num_bytes)
        except OpenAIError as error:
            self._refuse(error)

    def on_message_begin(self) -> None:
        self._limits = HeadLimits()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._checked(self._limits.on_url, url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._checked(self._limits.on_header, name, value)
        if not self._limits.in_body:  # trailers are counted and left out
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._disarm()
        self._limits.in_body = True
        if not self.flow.write_paused:  # what waits for the client will be this request's answer
            self._forget_reader()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._limits.on_body(body)
        super().on_body(body)

    def send_400_response(self, msg: str) -> None:
        """Refuse what the parser has refused, for our reason if it was ours."""
        self._refuse(self._refusal or OpenAIError(400, msg, code="invalid_http"))

    def _checked(self, check: Callable[..., None], *taken: bytes) -> None:
        """Keep the reason of a refusal: the parser passes none on."""
        try:
            check(*taken)
        except OpenAIError as error:
            self._refusal = error
            raise

    def _refuse(self, error: OpenAIError) -> None:
        """Answer with the error if no other answer is on its way, and close the connection."""
        self._ended = True
        self._disarm()
        log.info("event=refused_http code=%s", error.code)
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            if cycle.response_started or self.pipeline or not self._limits.in_body:
                self.transport.abort()
                return
            cycle.disconnected = True
            cycle.message_event.set()
        self.flow.resume_reading()
        self.transport.write(_answer(error))
        self.transport.write_eof()
        self.loop.call_later(LINGER_S, self.transport.abort)

    def _arm(self) -> None:
        if self._head_deadline is None:
            self._head_deadline = self.loop.call_later(self.header_timeout_s, self.transport.abort)

    def _disarm(self) -> None:
        if self._head_deadline is not None:
            self._head_deadline.cancel()
            self._head_deadline = None

    # -- what goes out ---------------------------------------------------------------------------

    def pause_writing(self) -> None:
        super().pause_writing()
        self._await_reader()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.cycle is not None and self.cycle.response_complete:
            self._await_reader()
        else:
            self._forget_reader()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._await_reader()

    def _await_reader(self) -> None:
        """End the connection if its client does not read what is waiting for it now."""
        self._forget_reader()
        waiting = self.transport.get_write_buffer_size()
        if waiting:
            self._read_deadline = self.loop.call_later(
                self.send_timeout_s, self._check_reader, waiting
            )

    def _check_reader(self, before: int) -> None:
        left = self.transport.get_write_buffer_size()
        if left and left > before - LEAST_READ_BYTES:
            log.info("event=slow_client")
            self.transport.abort()
        else:
            self._await_reader()

    def _forget_reader(self) -> None:
        if self._read_deadline is not None:
            self._read_deadline.cancel()
            self._read_deadline = None


def _answer(error: OpenAIError) -> bytes:
    """The error as a whole HTTP answer, for connections where no application answers."""
    headers = {
        **error.headers,
        "connection": "close",
        "content-type": "application/json",
        "content-length": str(len(error.body)),
    }
    lines = [f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + error.body


BUSY = _answer(OpenAIError(503, "Too many connections: try again later", code="busy"))
