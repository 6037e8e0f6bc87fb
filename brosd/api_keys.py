"""API keys: shown once, when they are made, and kept as hashes in the state folder.

A key has 256 random bits, so one round of SHA-256 protects it as well as a slow hash.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import ipaddress
import logging
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from bros.brosd.config import Config

log = logging.getLogger(__name__)

FILE_NAME = "keys.json"
PREFIX = "bros-"
Version = tuple[int, int, int]


class KeyFileError(RuntimeError):
    """The keys cannot be used; the text says why and what to do."""


class ApiKey(msgspec.Struct):
    """A key's owner and its hash."""

    name: str
    sha256: str
    created_s: float


class Keys:
    """The keys of one state folder. Raise KeyFileError if their file cannot be read.

    Keys that another process makes or revokes count from the next look on.
    """

    def __init__(self, state: Path) -> None:
        self._path = state / FILE_NAME
        self._version = self._look()
        self._keys = self._read()

    def _look(self) -> Version | None:
        """Return the file's identity, which a change replaces; None if there is no file."""
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size

    def _refresh(self) -> None:
        """Read the file if it has changed. If that fails, the keys stay as they are."""
        version = self._look()
        if version == self._version:
            return
        self._version = version
        try:
            self._keys = self._read()
        except KeyFileError as error:
            log.error("event=keys_not_read error=%r", str(error))
        else:
            log.info("event=keys_read count=%d", len(self._keys))

    def _read(self) -> list[ApiKey]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=list[ApiKey])
        except FileNotFoundError:
            return []
        except (OSError, msgspec.DecodeError) as error:
            raise KeyFileError(f"{self._path} cannot be read: {error}") from None

    @property
    def all(self) -> list[ApiKey]:
        self._refresh()
        return list(self._keys)

    def owner(self, key: str) -> str | None:
        """Return whose key that is, None if nobody's. It takes as long for each of the keys."""
        self._refresh()
        digest = _digest(key)
        found = None
        for known in self._keys:
            if hmac.compare_digest(known.sha256, digest):
                found = known.name
        return found

    def create(self, name: str) -> str:
        """Make a key and return it; only its hash is kept."""
        key = PREFIX + secrets.token_urlsafe(32)
        with self._changing():
            if any(known.name == name for known in self._keys):
                raise KeyFileError(f"there is a key named {name}: revoke it, or take another name")
            self._keys.append(ApiKey(name, _digest(key), time.time()))
        return key

    def revoke(self, name: str) -> None:
        with self._changing():
            kept = [known for known in self._keys if known.name != name]
            if len(kept) == len(self._keys):
                raise KeyFileError(f"there is no key named {name}: see 'brosd key list'")
            self._keys = kept

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Read, change and replace the file, while other processes wait."""
        with open(self._path.with_suffix(".lock"), "w") as lock:
            self._give_away(lock.fileno())
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._keys = self._read()
            yield
            scratch = self._path.with_suffix(".new")
            fd = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            self._give_away(fd)
            with open(fd, "wb") as file:
                file.write(msgspec.json.format(msgspec.json.encode(self._keys)))
                file.flush()
                os.fsync(fd)
            scratch.rename(self._path)

    def _give_away(self, fd: int) -> None:
        """Give what root writes to the folder's owner, who runs the daemon that reads it."""
        if os.geteuid() == 0:
            folder = self._path.parent.stat()
            os.fchown(fd, folder.st_uid, folder.st_gid)


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode(errors="replace")).hexdigest()


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def are_required(config: Config) -> bool:
    """Return whether HTTP requests need a key."""
    return config.server.auth == "always" or not is_loopback(config.server.host)


def check_keys(config: Config) -> None:
    """Raise KeyFileError if keys are required and there is none."""
    if are_required(config) and not Keys(config.state).all:
        raise KeyFileError(
            f"server.host = {config.server.host} can be reached by others and there is no API key: "
            "make one with 'brosd key create NAME', or use --set server.host=127.0.0.1"
        )
