"""The SQLite file of batch jobs and uploaded files: its tables, and their migrations."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from errno import ENOSPC
from pathlib import Path

from bros.brosd.config.folders import write_error
from bros.brosd.tokenizer.jobs.errors import UnusableStoreError

SCHEMA_VERSION = 2
FILES_BYTES = 2**17  # of an empty database, its log and the log's index

# Version 1, as it was released; what came later is a migration, for new files too.
FIRST = """
CREATE TABLE jobs (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL,
    created_s REAL NOT NULL,
    total INTEGER NOT NULL DEFAULT 0,
    completed INTEGER NOT NULL DEFAULT 0,
    failed INTEGER NOT NULL DEFAULT 0,
    prompt_tokens INTEGER NOT NULL DEFAULT 0,
    output_tokens INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE lines (
    job INTEGER NOT NULL REFERENCES jobs (id),
    number INTEGER NOT NULL,
    line BLOB NOT NULL,
    custom_id TEXT,
    seq INTEGER,
    result BLOB,
    UNIQUE (job, number)
) STRICT;
CREATE UNIQUE INDEX results ON lines (job, seq) WHERE seq IS NOT NULL;
CREATE INDEX pending ON lines (job, number) WHERE seq IS NULL;
CREATE INDEX custom_ids ON lines (job, custom_id, number);
"""

# What OpenAI's Batch object has, and its files. `ok` says in which of its two files a result is.
# A job's own files are its lines and results, seen as text: nothing is stored twice.
SECOND = """
ALTER TABLE jobs ADD COLUMN endpoint TEXT;
ALTER TABLE jobs ADD COLUMN input_file TEXT;
ALTER TABLE jobs ADD COLUMN window TEXT;
ALTER TABLE jobs ADD COLUMN metadata TEXT;
ALTER TABLE jobs ADD COLUMN problem TEXT;
ALTER TABLE jobs ADD COLUMN expires_s REAL;
ALTER TABLE jobs ADD COLUMN started_s REAL;
ALTER TABLE jobs ADD COLUMN cancelling_s REAL;
ALTER TABLE jobs ADD COLUMN finalizing_s REAL;
ALTER TABLE jobs ADD COLUMN ended_s REAL;
ALTER TABLE jobs ADD COLUMN input_bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN output_bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN error_bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE lines ADD COLUMN ok INTEGER;
UPDATE lines SET ok = json_extract(CAST(result AS TEXT), '$.response.status_code') IS 200
    WHERE seq IS NOT NULL;
UPDATE jobs SET
    ended_s = CASE WHEN state IN ('completed', 'cancelled') THEN created_s END,
    input_bytes = (SELECT coalesce(sum(length(line) + 1), 0) FROM lines WHERE job = id),
    output_bytes = (SELECT coalesce(sum(length(result) + 1), 0) FROM lines WHERE job = id AND ok),
    error_bytes =
        (SELECT coalesce(sum(length(result) + 1), 0) FROM lines WHERE job = id AND NOT ok);
CREATE TABLE files (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    filename TEXT NOT NULL,
    purpose TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    created_s REAL NOT NULL,
    expires_s REAL
) STRICT;
CREATE VIEW all_files AS
    SELECT name, filename, purpose, bytes, created_s, expires_s, NULL AS job, NULL AS part
        FROM files
    UNION ALL
    SELECT 'file-' || name || '.input', name || '.jsonl', 'batch', input_bytes, created_s, NULL,
        id, 'input' FROM jobs WHERE input_file IS NULL AND input_bytes > 0
    UNION ALL
    SELECT 'file-' || name || '.output', name || '_output.jsonl', 'batch_output', output_bytes,
        ended_s, NULL, id, 'output' FROM jobs WHERE ended_s IS NOT NULL AND output_bytes > 0
    UNION ALL
    SELECT 'file-' || name || '.errors', name || '_errors.jsonl', 'batch_output', error_bytes,
        ended_s, NULL, id, 'errors' FROM jobs WHERE ended_s IS NOT NULL AND error_bytes > 0;
"""
MIGRATIONS = (FIRST, SECOND)


def open_database(path: Path) -> sqlite3.Connection:
    """Open or make the file and bring it to the newest version. Raise UnusableStoreError."""
    try:
        db = sqlite3.connect(path, isolation_level=None)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA foreign_keys = ON")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        for number, migration in enumerate(MIGRATIONS[version:], version + 1):
            db.executescript(f"BEGIN; {migration} PRAGMA user_version = {number}; COMMIT;")
    except sqlite3.Error as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_FULL or _is_full(path.parent):
            full = OSError(ENOSPC, os.strerror(ENOSPC))
            raise UnusableStoreError(write_error(path.parent, "state_dir", full)) from None
        raise UnusableStoreError(
            f"batch jobs in {path} cannot be used: {error}; put a copy from a backup there, or "
            "move the file and its -wal away to start without jobs"
        ) from None
    if version > SCHEMA_VERSION:
        raise UnusableStoreError(f"batch jobs in {path} are of a newer brosd: update this one")
    return db


def _is_full(folder: Path) -> bool:
    """Whether a disk has no room for the database's own files, whatever SQLite calls that."""
    return shutil.disk_usage(folder).free < FILES_BYTES


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Commit all statements of the block, or none of them."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        db.rollback()
        raise
