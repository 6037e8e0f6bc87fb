"""What every child of the daemon does first: end with its parent, and show signs of life."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from pathlib import Path

from bros.brosd.protocol.runtime_folder import daemon_socket
from bros.brosd.protocol.sockets import BlockingOutbox
from bros.brosd.protocol.wire import Heartbeat, ToDaemon

BEAT_S = 1.0
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None, use_errno=True)


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends, even by SIGKILL."""
    parent = os.getppid()
    if LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # it ended before we asked
        sys.exit(1)


def start_heartbeat(runtime: Path, peer: str, generation: int) -> None:
    """Tell the daemon every second, from a thread, that this process is alive."""

    def beat() -> None:
        outbox: BlockingOutbox[ToDaemon] = BlockingOutbox(daemon_socket(runtime), linger_s=0)
        pause = threading.Event()
        while not pause.wait(BEAT_S):
            outbox.send(Heartbeat(peer, generation))

    threading.Thread(target=beat, name="heartbeat", daemon=True).start()
