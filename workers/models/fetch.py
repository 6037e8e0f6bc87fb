"""`python -m bros.workers.models.fetch NAME CACHE`: print a model's folder; fetch it if needed.

It is a process of its own, so that the daemon can ask for a model without loading torch.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from bros.workers.models.errors import ModelError
from bros.workers.models.resolve import resolve


def main() -> int:
    """Print the folder to standard output, all else to standard error. Return the exit status."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    if not sys.stderr.isatty():
        os.environ["TQDM_DISABLE"] = "1"  # a log has lines, not bars; read when tqdm is imported
    _, name, cache = sys.argv
    try:
        folder = resolve(name, Path(cache))
    except (ModelError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
