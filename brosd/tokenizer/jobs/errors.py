"""What a store of jobs refuses or cannot do; `code` is for programs, the text for people."""

from __future__ import annotations

from pathlib import Path


class UnusableStoreError(RuntimeError):
    """The store cannot be opened; the text says why."""


class StoreError(Exception):
    """The store did not do what it was asked to do."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class JobError(StoreError):
    """A job cannot be used as asked."""


class FileError(StoreError):
    """A file cannot be used as asked."""


class StorageFailedError(StoreError):
    """The storage itself failed: the same call may succeed later."""

    def __init__(self, problem: str) -> None:
        super().__init__("storage_failed", f"Batch jobs cannot be stored: {problem}")


class DiskFullError(StoreError):
    """There is no room for more; the text says what to do."""

    def __init__(self, message: str) -> None:
        super().__init__("disk_full", message)

    @classmethod
    def of(cls, folder: Path) -> DiskFullError:
        return cls(
            f"the disk of {folder} is full: free some space; nothing was stored of this, and "
            "nothing that was accepted before is lost"
        )
