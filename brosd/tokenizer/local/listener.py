"""Lets local clients connect, except while the process has too few file descriptors left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import zmq

from bros.brosd.protocol.runtime_folder import closed_door
from bros.brosd.protocol.sockets import ipc
from bros.brosd.tokenizer.descriptors import DescriptorBudget

LOOK_EVERY_S = 0.5
BACKLOG = 32  # connections that the kernel holds ready, which are accepted whatever we do


class Listener:
    """Binds a socket, and moves its file away for as long as nobody else can be served.

    Clients that do not find it try again by themselves. To unbind the socket would end those that
    are connected.
    """

    def __init__(self, socket: Any, path: Path, budget: DescriptorBudget) -> None:
        self._path = path
        self._away = closed_door(path)
        self._budget = budget
        self._monitor = socket.get_monitor_socket(zmq.EVENT_ACCEPTED)
        self._socket = socket
        self._open = True
        for left_over in (path, self._away):
            left_over.unlink(missing_ok=True)
        socket.setsockopt(zmq.BACKLOG, BACKLOG)
        socket.bind(ipc(path))

    async def run(self) -> None:
        """Look after each new connection, and now and then."""
        while True:
            if await self._monitor.poll(int(LOOK_EVERY_S * 1000)):
                await self._monitor.recv_multipart()
            fits = self._budget.fits_local()
            if self._open and not fits:
                self._path.rename(self._away)
            elif fits and not self._open:
                self._away.rename(self._path)
            self._open = fits

    def close(self) -> None:
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._away.unlink(missing_ok=True)
