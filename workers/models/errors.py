"""What goes wrong with models on disk."""

from __future__ import annotations


class ModelError(RuntimeError):
    """The model cannot be found, fetched or converted; the text says why, and what to do."""
