"""Tells whoever started the daemon how it is, in systemd's notify protocol.

systemd listens at the socket that $NOTIFY_SOCKET names. The parent of a detached daemon listens at
one end of a pair of sockets, and the daemon inherits the other: nobody else can speak there.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress

TICK_AT_LEAST_S = 0.05
NOTIFY_FD = "BROSD_NOTIFY_FD"  # the number of the inherited socket
NUM_RESTARTS = "BROSD_RESTARTS"  # how often the parent has started the daemon again
OF_THE_PARENT = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", NOTIFY_FD, NUM_RESTARTS)


def watchdog_s() -> float:
    """How often systemd wants to hear that the daemon lives; infinity if it does not."""
    own = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    asked = os.environ.get("WATCHDOG_USEC", "")
    return max(TICK_AT_LEAST_S, int(asked) / 1e6) if own and asked.isdecimal() else float("inf")


def num_restarts() -> int:
    """How often the parent of a detached daemon has started it again."""
    return int(os.environ.get(NUM_RESTARTS, "0"))


def environ_of_child() -> dict[str, str]:
    """The environment of a process that does not speak for the daemon.

    Without the working directory on the path, a file there cannot stand in for a module.
    """
    kept = {name: value for name, value in os.environ.items() if name not in OF_THE_PARENT}
    return {**kept, "PYTHONSAFEPATH": "1"}


def notify(*assignments: str) -> None:
    """Send `READY=1`, `STATUS=...` and the like to the parent, if it listens.

    A parent that does not read loses messages: the daemon runs on and waits for nobody.
    """
    message = "\n".join(assignments).encode()
    if inherited := os.environ.get(NOTIFY_FD):
        with suppress(OSError), socket.socket(fileno=os.dup(int(inherited))) as pair:
            pair.send(message, socket.MSG_DONTWAIT)
    elif address := os.environ.get("NOTIFY_SOCKET"):
        address = "\0" + address[1:] if address.startswith("@") else address
        with (
            suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as peer,
        ):
            peer.connect(address)
            peer.send(message, socket.MSG_DONTWAIT)
