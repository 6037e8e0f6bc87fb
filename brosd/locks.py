"""One daemon per runtime and state folder: locks, its process id, what a predecessor left."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bros.brosd.config import Config

LOCK_NAME = "brosd.lock"


class InstanceError(RuntimeError):
    """The folders cannot be used; the text says why and what to do."""


@contextmanager
def instance(config: Config) -> Iterator[None]:
    """Hold both folders while the daemon runs, swept of a killed predecessor's files."""
    make_folders(config)
    with _locked(config.runtime), _locked(config.state):
        _sweep(config.runtime)
        try:
            yield
        finally:
            _sweep(config.runtime)


def make_folders(config: Config) -> None:
    """Make the three folders, the runtime folder private. InstanceError if that cannot be."""
    _make_private(config.runtime)
    make_folder(config.state)
    make_folder(config.cache)


def running_pid(runtime: Path) -> int | None:
    """The process id of the daemon that holds this runtime folder, None if there is none."""
    try:
        fd = os.open(runtime / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return int(os.read(fd, 32) or 0)
    else:
        return None
    finally:
        os.close(fd)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    # The file stays: unlinking it would let a third process lock another file of that name.
    fd = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.read(fd, 32).decode()
        os.close(fd)
        raise InstanceError(
            f"a daemon (process {pid}) already uses {folder}: stop it with 'brosd stop', "
            "or set BROS_RUNTIME_DIR and BROS_STATE_DIR to other folders"
        ) from None
    os.ftruncate(fd, 0)
    os.write(fd, str(os.getpid()).encode())
    try:
        yield
    finally:
        os.ftruncate(fd, 0)
        os.close(fd)


def make_folder(folder: Path) -> None:
    """For us alone, if it is not there yet. InstanceError if that cannot be."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise InstanceError(f"cannot make {folder}: {error.strerror}") from None


def _make_private(folder: Path) -> None:
    """Whoever can write here owns the daemon, so it must be ours alone."""
    make_folder(folder)
    status = folder.stat()
    if status.st_uid != os.geteuid():
        raise InstanceError(f"{folder} belongs to user {status.st_uid}: choose another runtime_dir")
    if stat.S_IMODE(status.st_mode) & 0o077:
        folder.chmod(0o700)


def _sweep(runtime: Path) -> None:
    for pattern in ("*.sock", "*.store", "table-*", "config.json"):
        for path in runtime.glob(pattern):
            path.unlink(missing_ok=True)
