"""Which version of the kernels this is: for what is kept on disk and must not outlive them."""

from __future__ import annotations

import hashlib
import shutil
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

UNUSED_S = 30 * 86400.0


@cache
def kernels_version() -> str:
    """Names their sources: Numba itself looks at one file of several."""
    sources = sorted(Path(__file__).parent.rglob("*.py"))
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources))
    return digest.hexdigest()[:16]


def compiled_folder(cache: Path) -> Path:
    """Where this version's compiled kernels are kept; those of versions long unused are removed."""
    folder = cache / "numba" / kernels_version()
    with suppress(OSError):  # without a cache a start is slower, and works
        folder.mkdir(parents=True, exist_ok=True)
        folder.touch()
        for other in folder.parent.iterdir():
            if time.time() - other.stat().st_mtime > UNUSED_S:
                shutil.rmtree(other, ignore_errors=True)
    return folder
