"""A version of the kernels' sources, and the folder of the code compiled from them."""

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
    """Return a hash of all sources: Numba itself checks one file of those that it compiles."""
    sources = sorted(Path(__file__).parent.rglob("*.py"))
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources))
    return digest.hexdigest()[:16]


def compiled_folder(cache: Path) -> Path:
    """Return where this version's compiled kernels are kept; remove versions long unused."""
    folder = cache / "numba" / kernels_version()
    with suppress(OSError):  # without a cache, starts are slower but work
        folder.mkdir(parents=True, exist_ok=True)
        folder.touch()
        for other in folder.parent.iterdir():
            if time.time() - other.stat().st_mtime > UNUSED_S:
                shutil.rmtree(other, ignore_errors=True)
    return folder
