"""Counts and logs exceptions after which the scheduler goes on."""

from __future__ import annotations

import logging

log = logging.getLogger(__name__)


class Faults:
    """`count` of them; the first, second, fourth, eighth and so on are logged."""

    def __init__(self) -> None:
        self.count = 0

    def note(self, what: str) -> None:
        """Count the exception that is being handled. `what` is what has failed."""
        self.count += 1
        if self.count & (self.count - 1) == 0:
            log.exception("%s failed, fault %d; serving goes on", what, self.count)
