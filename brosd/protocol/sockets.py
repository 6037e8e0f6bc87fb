"""Typed one-way sockets: an `Inbox` is bound by its only reader, an `Outbox` connects to it.

ipc only, inside the runtime directory (mode 0700). Sending waits when the peer's high-water mark
is reached, so that nothing is dropped. The asyncio pair serves the daemon and the tokenizer,
the blocking pair the workers and the command line.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec
import zmq
import zmq.asyncio

from bros.brosd.protocol.wire import MAX_MESSAGE_BYTES, Message

log = logging.getLogger(__name__)
T = TypeVar("T")

HIGH_WATER_MARK = 10_000
IPC_PATH_MAX = 107  # sun_path of a Unix socket, in bytes

# What decoding a frame may raise: text that is not UTF-8 and deep nesting have errors of their own.
MALFORMED = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class MessageTooLargeError(ValueError):
    """A message has more than MAX_MESSAGE_BYTES."""


_encoder = msgspec.msgpack.Encoder()


def encode(message: Message) -> bytes:
    """Return the MessagePack bytes of one message.

    Raise MessageTooLargeError if its reader would not take it: the connection would then be closed,
    and the message lost.
    """
    data = _encoder.encode(message)
    if len(data) > MAX_MESSAGE_BYTES:
        kind = type(message).__name__
        raise MessageTooLargeError(f"{kind} of {len(data)} bytes, more than {MAX_MESSAGE_BYTES}")
    return data


def ipc(path: Path) -> str:
    """Return the ZeroMQ address of a socket file. Raise ValueError if the path is too long."""
    if len(str(path).encode()) > IPC_PATH_MAX:
        raise ValueError(
            f"socket path {path} is longer than {IPC_PATH_MAX} bytes: choose a shorter runtime_dir"
        )
    return f"ipc://{path}"


def set_options(socket: Any, linger_ms: int = 0) -> None:
    """Bound a socket's messages and queues. Closing it waits `linger_ms` for what is unsent."""
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
    socket.setsockopt(zmq.SNDHWM, HIGH_WATER_MARK)
    socket.setsockopt(zmq.RCVHWM, HIGH_WATER_MARK)
    socket.setsockopt(zmq.LINGER, linger_ms)


class Inbox(Generic[T]):
    """Receives the messages of one union, from any number of peers (asyncio)."""

    def __init__(self, path: Path, union: Any) -> None:
        self._decoder = msgspec.msgpack.Decoder(union)
        self._socket: Any = zmq.asyncio.Context.instance().socket(zmq.PULL)
        set_options(self._socket)
        self._socket.bind(ipc(path))

    async def recv(self) -> T:
        """Return the next well-formed message; a malformed one is logged and left out."""
        while True:
            frame = await self._socket.recv()
            try:
                message: T = self._decoder.decode(frame)
            except MALFORMED as error:
                log.warning("event=bad_frame bytes=%d error=%r", len(frame), str(error))
            else:
                return message

    def close(self) -> None:
        self._socket.close()


class Outbox(Generic[T]):
    """Sends to one `Inbox` (asyncio)."""

    def __init__(self, path: Path) -> None:
        self._socket: Any = zmq.asyncio.Context.instance().socket(zmq.PUSH)
        set_options(self._socket)
        self._socket.connect(ipc(path))

    async def send(self, message: Message) -> None:
        await self._socket.send(encode(message))

    def close(self) -> None:
        self._socket.close()


class BlockingInbox(Generic[T]):
    """Receives the messages of one union (blocking)."""

    def __init__(self, path: Path, union: Any) -> None:
        self._decoder = msgspec.msgpack.Decoder(union)
        self._socket: Any = zmq.Context.instance().socket(zmq.PULL)
        set_options(self._socket)
        self._socket.bind(ipc(path))

    def recv(self) -> T:
        """Return the next message. Raise one of MALFORMED if it is malformed."""
        message: T = self._decoder.decode(self._socket.recv())
        return message

    def poll(self, timeout_s: float) -> bool:
        """Wait for a message, and return whether there is one."""
        return bool(self._socket.poll(int(timeout_s * 1000)))

    def close(self) -> None:
        self._socket.close()


class BlockingOutbox(Generic[T]):
    """Sends to one `Inbox` (blocking). Threads must not share it.

    `linger_s` is how long closing waits for a peer to take the last messages.
    """

    def __init__(self, path: Path, linger_s: float = 1.0) -> None:
        self._socket: Any = zmq.Context.instance().socket(zmq.PUSH)
        set_options(self._socket, int(linger_s * 1000))
        self._socket.connect(ipc(path))

    def send(self, message: Message) -> None:
        self._socket.send(encode(message))

    def close(self) -> None:
        self._socket.close()
