"""The folders of the daemon: where they are if nobody says so, and what is wrong with one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from errno import EDQUOT, ENOSPC
from pathlib import Path


def default_state_dir(environ: Mapping[str, str]) -> str:
    if folder := environ.get("STATE_DIRECTORY"):
        return folder
    if os.geteuid() == 0:
        return "/var/lib/bros"
    return str(_home(environ, "XDG_STATE_HOME", ".local/state") / "bros")


def default_runtime_dir(environ: Mapping[str, str]) -> str:
    if folder := environ.get("RUNTIME_DIRECTORY"):
        return folder
    if os.geteuid() == 0:
        return "/run/bros"
    if folder := environ.get("XDG_RUNTIME_DIR"):
        return str(Path(folder) / "bros")
    return f"/tmp/bros-{os.geteuid()}"  # its owner and mode are checked before use


def default_cache_dir(environ: Mapping[str, str]) -> str:
    if folder := environ.get("CACHE_DIRECTORY"):
        return folder
    if os.geteuid() == 0 and "XDG_CACHE_HOME" not in environ:
        return "/var/cache/bros"
    return str(_home(environ, "XDG_CACHE_HOME", ".cache") / "bros")


def user_dir(environ: Mapping[str, str] | None = None) -> Path:
    """Return the folder of what belongs to a person: chat history, saved conversations."""
    environ = os.environ if environ is None else environ
    return _home(environ, "XDG_STATE_HOME", ".local/state") / "bros"


def write_error(folder: Path, key: str, error: OSError) -> str:
    """Return that the folder, which is the setting `key`, cannot be written, and what to do."""
    full = error.errno in (ENOSPC, EDQUOT)
    remedy = "free some space there, or" if full else "make it writable, or"
    return (
        f"cannot write in {folder}: {error.strerror}; {remedy} choose another folder with "
        f"--set {key}=FOLDER"
    )


def _home(environ: Mapping[str, str], variable: str, fallback: str) -> Path:
    return Path(environ.get(variable) or Path.home() / fallback)
