"""One daemon per runtime and state folder: locks, its process id, what a predecessor left."""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bros.brosd.config import Config
from bros.brosd.config.folders import write_error
from bros.brosd.protocol.runtime_folder import is_left_over

LOCK_NAME = "brosd.lock"
RESPAWNER_LOCK_NAME = "respawn.lock"
TRIES, PAUSE_S = 5, 0.05
OTHERS = 0o077  # the permissions of group and others


class InstanceError(RuntimeError):
    """The folders cannot be used; the text says why and what to do."""


@contextmanager
def instance(config: Config) -> Iterator[None]:
    """Hold both folders while the daemon runs, and delete what a killed predecessor left."""
    make_folders(config)
    # The files stay: unlinking one would let a third process lock another file of that name.
    with (
        _lock(config.runtime / LOCK_NAME, "runtime_dir"),
        _lock(config.state / LOCK_NAME, "state_dir"),
    ):
        _sweep(config.runtime)
        try:
            yield
        finally:
            _sweep(config.runtime)


def running_pid(runtime: Path) -> int | None:
    """Return the process id of the daemon that holds this runtime folder, None if there is none.

    Raise InstanceError if the folder is another user's, who could name any process there.
    """
    return _holder(runtime, LOCK_NAME)


def respawner_pid(runtime: Path) -> int | None:
    """Return the process id of the parent that starts a daemon again, None if there is none."""
    return _holder(runtime, RESPAWNER_LOCK_NAME)


def is_served(runtime: Path) -> bool:
    """Return whether a daemon holds this runtime folder, or will be started again in a moment."""
    return running_pid(runtime) is not None or respawner_pid(runtime) is not None


def _holder(runtime: Path, name: str) -> int | None:
    check_owner(runtime, "runtime_dir")
    try:
        fd = os.open(runtime / name, os.O_RDONLY | os.O_CLOEXEC)
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
def respawner_lock(runtime: Path) -> Iterator[None]:
    """Hold the lock of the process that starts the daemon again, and leave no file behind."""
    path = runtime / RESPAWNER_LOCK_NAME
    while True:
        with _lock(path, "runtime_dir") as fd:
            try:
                ours = os.stat(path).st_ino == os.fstat(fd).st_ino
            except FileNotFoundError:
                ours = False
            if not ours:
                continue  # it was unlinked by its last holder when we had just opened it
            try:
                yield
            finally:
                path.unlink()
            return


@contextmanager
def _lock(path: Path, key: str) -> Iterator[int]:
    """Hold a lock file with our process id in it, and yield its descriptor."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise InstanceError(write_error(path.parent, key, error)) from None
    try:
        _take(fd, path.parent)
        try:
            os.ftruncate(fd, 0)
            os.write(fd, str(os.getpid()).encode())
        except OSError as error:
            raise InstanceError(write_error(path.parent, key, error)) from None
        try:
            yield fd
        finally:
            os.ftruncate(fd, 0)
    finally:
        os.close(fd)


def _take(fd: int, folder: Path) -> None:
    """Lock a file. Raise InstanceError if another process keeps it."""
    for _ in range(TRIES):  # whoever only looks holds it for a moment
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(PAUSE_S)
        else:
            return
    pid = os.pread(fd, 32, 0).decode()
    raise InstanceError(
        f"a daemon (process {pid}) already uses {folder}: stop it with 'brosd stop', "
        "or set BROS_RUNTIME_DIR and BROS_STATE_DIR to other folders"
    )


def _sweep(runtime: Path) -> None:
    """Delete the files of a daemon that has ended, and nothing else that lies there."""
    with os.scandir(runtime) as entries:
        for entry in entries:
            if is_left_over(entry.name) and not entry.is_dir(follow_symlinks=False):
                Path(entry.path).unlink(missing_ok=True)


# -- whose the folders are ----------------------------------------------------------------------


def make_folders(config: Config) -> None:
    """Make the three folders. Raise InstanceError if one cannot be made or is not ours alone."""
    for folder, key in ((config.runtime, "runtime_dir"), (config.state, "state_dir")):
        make_folder(folder, key)
        _close_to_others(folder, key)
    make_folder(config.cache, "cache_dir")


def make_folder(folder: Path, key: str) -> None:
    """Make the folder, for us alone, if it is not there yet. Raise InstanceError if that fails."""
    check_owner(folder, key)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise InstanceError(write_error(folder, key, error)) from None
    check_owner(folder, key)


def check_owner(folder: Path, key: str) -> None:
    """Raise InstanceError if the folder, or a link in its place, is another user's.

    Whoever owns it could lay files there for us to read, to run or to delete. Root is not
    another user, and looks into everybody's folders. A folder that is not there is nobody's.
    """
    for look in (os.lstat, os.stat):
        try:
            status = look(folder)
        except FileNotFoundError:
            return
        except OSError as error:
            raise InstanceError(f"cannot look at {folder}: {error.strerror}") from None
        linked = stat.S_ISLNK(status.st_mode)
        trusted = {0, os.geteuid()}
        if status.st_uid not in trusted and (linked or os.geteuid() != 0):
            what = f"{folder} is a link that" if linked else f"{folder}"
            raise InstanceError(
                f"{what} belongs to user {status.st_uid}: remove it, or choose another folder "
                f"with --set {key}=FOLDER"
            )


def _close_to_others(folder: Path, key: str) -> None:
    """Take the folder's permissions from others. Raise InstanceError if we may not, or must not."""
    status = folder.stat()
    if status.st_uid != os.geteuid() and (os.geteuid() != 0 or key == "runtime_dir"):
        raise InstanceError(
            f"{folder} belongs to user {status.st_uid}: choose another folder with "
            f"--set {key}=FOLDER"
        )
    if status.st_mode & stat.S_ISVTX and status.st_mode & stat.S_IWOTH:
        raise InstanceError(
            f"{folder} is shared by all users: choose a folder in it with --set {key}={folder}/bros"
        )
    if status.st_mode & OTHERS:
        folder.chmod(stat.S_IMODE(status.st_mode) & ~OTHERS)
