"""The parent of a detached daemon: starts it again when it ends unexpectedly.

`python -m bros.brosd.respawn RUNTIME_DIR REPORT_FD COMMAND...` runs COMMAND, which is
`brosd start` with its options. It writes `MAINPID=...` and `READY=1`, or `STATUS=failed: ...`, to
REPORT_FD. Signals that end or reload a daemon are passed on to it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from bros.brosd.locks import InstanceError, respawner_lock
from bros.brosd.protocol.logs import setup_logging
from bros.brosd.systemd import NOTIFY_FD, NUM_RESTARTS, environ_of_child

log = logging.getLogger(__name__)

# As in systemd/brosd.service: five ends in five minutes are the last.
MAX_RESTARTS = 5
WINDOW_S = 300.0
PAUSE_S = 0.5
NOT_STARTED = 127  # the status of a daemon for which there is no process
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


class Backoff:
    """How long to wait before the next start. A clock is given."""

    def __init__(self) -> None:
        self._ends_s: deque[float] = deque()

    def pause_s(self, now_s: float) -> float | None:
        """Count an end, and double the pause for each recent one; None if there were too many."""
        self._ends_s.append(now_s)
        while self._ends_s[0] <= now_s - WINDOW_S:
            self._ends_s.popleft()
        recent = len(self._ends_s)
        return None if recent > MAX_RESTARTS else PAUSE_S * 2 ** (recent - 1)


class Respawner:
    """Runs one daemon, through all its lives. `run` returns an exit status."""

    def __init__(self, command: Sequence[str], report_fd: int) -> None:
        self._command = command
        self._report_fd: int | None = report_fd  # None once the start is over
        self._process: asyncio.subprocess.Process | None = None
        self._stop_signal: int | None = None
        self._stopping = asyncio.Event()
        self._served = False
        self._reason = ""  # what the daemon itself gave for its end
        self._restarts = 0

    async def run(self) -> int:
        """Return when the daemon is not to be started again."""
        loop = asyncio.get_running_loop()
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, self._stop, number)
        loop.add_signal_handler(signal.SIGHUP, self._pass_on, signal.SIGHUP)
        backoff = Backoff()
        while True:
            status = await self._run_daemon()
            reason = self._reason or f"it ended with status {status}"
            if not self._served:
                self._report(f"STATUS=failed: {reason}")
                return 1
            if status == 0 or self._stopping.is_set():
                return 0
            pause_s = backoff.pause_s(time.monotonic())
            if pause_s is None:
                log.error("event=daemon_given_up reason=%r restarts=%d", reason, self._restarts)
                return 1
            log.error("event=daemon_lost reason=%r restart_in_s=%.1f", reason, pause_s)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause_s)
                return 0
            self._restarts += 1

    async def _run_daemon(self) -> int:
        """Run the daemon once, and return its exit status."""
        self._reason = ""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours:
            ours.setblocking(False)
            environ = environ_of_child()
            environ |= {NOTIFY_FD: str(theirs.fileno()), NUM_RESTARTS: str(self._restarts)}
            with theirs:
                try:
                    self._process = await asyncio.create_subprocess_exec(
                        *self._command,
                        stdin=asyncio.subprocess.DEVNULL,
                        env=environ,
                        pass_fds=[theirs.fileno()],
                    )
                except OSError as error:
                    self._reason = f"cannot be started: {error.strerror}"
                    return NOT_STARTED
            if self._stop_signal is not None:
                self._pass_on(self._stop_signal)
            await self._listen(ours)
        status = await self._process.wait()
        self._process = None
        return status

    async def _listen(self, ours: socket.socket) -> None:
        """Heed what the daemon says, until it closes its end."""
        loop = asyncio.get_running_loop()
        with suppress(ConnectionError):
            while packet := await loop.sock_recv(ours, 4096):
                for line in packet.decode(errors="replace").splitlines():
                    self._heed(line)

    def _heed(self, line: str) -> None:
        if line.startswith("STATUS=failed: "):
            self._reason = line.removeprefix("STATUS=failed: ")
        elif line == "READY=1" and self._process is not None:
            self._served = True
            self._report(f"MAINPID={self._process.pid}\nREADY=1")

    def _report(self, text: str) -> None:
        """Tell `brosd start --detach` how the start went, once."""
        if self._report_fd is not None:
            with suppress(OSError):  # nobody waits for it any more
                os.write(self._report_fd, text.encode() + b"\n")
            os.close(self._report_fd)
            self._report_fd = None

    def _stop(self, number: int) -> None:
        self._stop_signal = number
        self._stopping.set()
        self._pass_on(number)

    def _pass_on(self, number: int) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)


async def _run(command: Sequence[str], report_fd: int) -> int:
    return await Respawner(command, report_fd).run()


def main() -> int:
    """Hold the lock of the runtime folder's respawner and run the daemon."""
    runtime, report_fd, *command = sys.argv[1:]
    setup_logging("info", "respawn")
    try:
        with respawner_lock(Path(runtime)):
            return asyncio.run(_run(command, int(report_fd)))
    except InstanceError as error:
        os.write(int(report_fd), f"STATUS=failed: {error}\n".encode())
        return 1


if __name__ == "__main__":
    sys.exit(main())
