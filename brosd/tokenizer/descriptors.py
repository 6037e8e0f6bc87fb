"""How many file descriptors may be used for what: clients must leave enough for all else.

libzmq ends the process if it gets none for a connection (it aborts in `ipc_listener`), so HTTP
connections are refused first, and then connections of local clients, while some are left.
"""

from __future__ import annotations

import logging
import os
import resource
import time

log = logging.getLogger(__name__)

RESERVED = 256  # for files, and for connections that were accepted before we could say no
LOG_EVERY_S = 10.0


class DescriptorBudget:
    """Compares the lowest free descriptor with the process's limit."""

    def __init__(self) -> None:
        self._logged_s = -LOG_EVERY_S

    def fits_http(self, descriptor: int) -> bool:
        """Whether an HTTP connection that got this descriptor may stay."""
        return self._fits(descriptor, 2, "http")

    def fits_local(self) -> bool:
        """Whether one more local client may connect."""
        try:
            free = os.dup(0)  # the kernel gives the lowest one
        except OSError:
            return False
        os.close(free)
        return self._fits(free, 1, "local")

    def _fits(self, descriptor: int, reserves: int, door: str) -> bool:
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        fits = descriptor < limit - reserves * min(RESERVED, limit // 4)
        if not fits and time.monotonic() - self._logged_s > LOG_EVERY_S:
            self._logged_s = time.monotonic()
            log.warning("event=out_of_descriptors door=%s limit=%d", door, limit)
        return fits
