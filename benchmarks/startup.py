"""How long the command line takes to its first picture: `python -m benchmarks.startup`.

`bros --help` is measured to its end, `bros chat` and `bros top` to what a user waits for, on a
terminal and with a running daemon (start one first). Medians of ten.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from terminal import Terminal

ROUNDS = 10
BROS = str(Path(sys.executable).parent / "bros")


def main() -> None:
    for name, measure in (
        ("bros --help", help_s),
        ("bros chat", lambda: screen_s("chat", "^>$")),
        ("bros top", lambda: screen_s("top", "KV blocks")),
    ):
        print(f"{name:12} {median_ms(measure):6.0f} ms")


def median_ms(measure: Callable[[], float]) -> float:
    return 1000 * statistics.median(measure() for _ in range(ROUNDS))


def help_s() -> float:
    began_s = time.perf_counter()
    subprocess.run([BROS, "--help"], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began_s


def screen_s(command: str, pattern: str) -> float:
    began_s = time.perf_counter()
    terminal = Terminal([BROS, command], os.environ, Path.cwd())
    try:
        terminal.expect(pattern)
        return time.perf_counter() - began_s
    finally:
        terminal.close()


if __name__ == "__main__":
    main()
