"""Tells who started the daemon how it is, in systemd's notify protocol; `--detach` listens too."""

from __future__ import annotations

import os
import socket

TICK_AT_LEAST_S = 0.05


def watchdog_s() -> float:
    """How often systemd wants to hear that the daemon lives; infinity if it does not."""
    own = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    asked = os.environ.get("WATCHDOG_USEC", "")
    return max(TICK_AT_LEAST_S, int(asked) / 1e6) if own and asked.isdecimal() else float("inf")


def notify(*assignments: str) -> None:
    """Send `READY=1`, `STATUS=...` and the like to $NOTIFY_SOCKET, if there is one."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as peer:
        try:
            peer.connect(address)
            peer.send("\n".join(assignments).encode())
        except OSError:
            pass  # nobody listens any more; the daemon runs all the same
