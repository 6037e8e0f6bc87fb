"""Which version of the kernels this is: for what is kept on disk and must not outlive them."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path


@cache
def kernels_version() -> str:
    """Names their sources: Numba itself looks at one file of several."""
    folder = Path(__file__).parent
    sources = [*sorted(folder.glob("*.py")), *sorted(folder.glob("attention/*.py"))]
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources))
    return digest.hexdigest()[:16]
