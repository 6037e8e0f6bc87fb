"""The way to a daemon on this machine: a ZeroMQ socket that notices when its peer goes away."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import zmq
from zmq.utils.monitor import recv_monitor_message

from bros.brosd.client.errors import ClientError, NotRunning, unexpected
from bros.brosd.locks import InstanceError, is_served
from bros.brosd.protocol.runtime_folder import client_socket
from bros.brosd.protocol.sockets import MALFORMED, encode, ipc, set_options
from bros.brosd.protocol.wire import Message, ToClient

TICK_MS = 500  # how often a waiting client looks whether the daemon still lives
GRACE_S = 2.0  # for a daemon that is not there yet
RECONNECT_S = 15.0  # for one that was there and is being started again
PATIENCE_S = 60.0  # with one that holds its lock but does not answer
LINGER_MS = 500  # for a last Cancel


class IpcConnection:
    """A connection to the daemon of one runtime folder. Raise NotRunning if there is none.

    `losses` counts how often the other end has gone away.
    """

    def __init__(self, runtime: Path) -> None:
        self._runtime = runtime
        path = client_socket(runtime)
        if not self._is_served() and not path.exists():
            raise NotRunning(runtime)
        try:
            address = ipc(path)
        except ValueError as error:
            raise ClientError(str(error)) from None
        self.losses = 0
        self._decoder = msgspec.msgpack.Decoder(ToClient)
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        set_options(self._socket, LINGER_MS)
        # The kernel closes a dead tokenizer's socket, so its end is an event, never a guess.
        self._monitor = self._socket.get_monitor_socket(
            zmq.EVENT_CONNECTED | zmq.EVENT_DISCONNECTED
        )
        self._grace_s = GRACE_S
        self._away_since_s: float | None = time.monotonic()  # None while connected
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._monitor, zmq.POLLIN)
        self._socket.connect(address)

    def close(self) -> None:
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close()
        self._context.term()

    def send(self, message: Message) -> None:
        self._socket.send(encode(message))

    def receive(self, rid: int) -> ToClient | None:
        """Return a message about `rid`; None after a tick, or if the connection changed."""
        ready = dict(self._poller.poll(TICK_MS))
        if self._socket in ready:  # first what arrived before the connection broke
            message = self._decode(self._socket.recv())
            # 0: a message that the server could not read. Others: answers to a repetition.
            return message if message.rid in (rid, 0) else None
        if self._monitor in ready:
            self._on_event()
        return None

    def drain_events(self) -> None:
        """Take note of what has happened to the connection so far."""
        while self._monitor.poll(0):
            self._on_event()

    def check_there(self, began_s: float | None = None) -> None:
        """Raise NotRunning or ClientError if there is nobody to wait for.

        `began_s` is when a call that must end began.
        """
        since_s = self._away_since_s if self._away_since_s is not None else began_s
        if since_s is None:
            return
        waited_s = time.monotonic() - since_s
        away = self._away_since_s is not None and waited_s > self._grace_s
        if away and not self._is_served():
            raise NotRunning(self._runtime)
        if waited_s > PATIENCE_S:
            raise ClientError(
                f"the daemon in {self._runtime} did not answer for {PATIENCE_S:.0f} s: see its log"
            )

    def _is_served(self) -> bool:
        try:
            return is_served(self._runtime)
        except InstanceError as error:
            raise ClientError(str(error)) from None

    def _decode(self, frame: bytes) -> ToClient:
        try:
            message: ToClient = self._decoder.decode(frame)
        except MALFORMED as error:
            raise unexpected(f"a malformed message ({error})") from None
        return message

    def _on_event(self) -> None:
        if recv_monitor_message(self._monitor)["event"] == zmq.EVENT_CONNECTED:
            self._away_since_s = None
            self._grace_s = RECONNECT_S
        else:
            self._away_since_s = time.monotonic()
            self.losses += 1
