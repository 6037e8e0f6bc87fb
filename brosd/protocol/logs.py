"""How every process of the daemon logs."""

from __future__ import annotations

import logging
import sys


def setup_logging(level: str, process: str) -> None:
    """Log one line per event on standard error: time, level, process, then key=value pairs."""
    logging.basicConfig(
        stream=sys.stderr,
        level=level.upper(),
        format=f"%(asctime)s %(levelname)s process={process} %(message)s",
        force=True,
    )
