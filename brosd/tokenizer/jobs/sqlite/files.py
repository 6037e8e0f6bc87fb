"""Files of the OpenAI API: uploads are plain files in a folder, results of jobs are their rows.

Only the thread that has the database uses this. An upload is written under another name first, so
that each file of the folder is whole, and is on disk before it is acknowledged.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import time
from pathlib import Path
from typing import BinaryIO

from bros.brosd.tokenizer.jobs.errors import FileError
from bros.brosd.tokenizer.jobs.job import File
from bros.brosd.tokenizer.jobs.sqlite.database import transaction
from bros.brosd.tokenizer.jobs.sqlite.jobs import PAGE_RESULTS, page

PARTIAL = ".part"
CHUNK_BYTES = 2**20


_COLUMNS = ", ".join(File.__dataclass_fields__)
_CONTENTS = {
    "input": "SELECT number, line FROM lines WHERE job = ? AND number > ? ORDER BY number LIMIT ?",
    "output": (
        "SELECT seq, result FROM lines WHERE job = ? AND seq > ? AND ok AND length(result)"
        " ORDER BY seq LIMIT ?"
    ),
    "errors": (
        "SELECT seq, result FROM lines WHERE job = ? AND seq > ? AND NOT ok AND length(result)"
        " ORDER BY seq LIMIT ?"
    ),
}


class SqliteFiles:
    """The files of one state folder. Deletes what a killed process left half written."""

    def __init__(self, db: sqlite3.Connection, folder: Path) -> None:
        self._db = db
        self._folder = folder
        folder.mkdir(mode=0o700, exist_ok=True)
        known = {name for (name,) in db.execute("SELECT name FROM files")}
        for path in folder.iterdir():
            if path.name not in known:
                path.unlink()

    # -- uploads ---------------------------------------------------------------------------------

    def create(self) -> tuple[str, BinaryIO]:
        """A new file's name, and the file that its content is to be written to."""
        name = f"file-{secrets.token_hex(12)}"
        return name, (self._folder / f"{name}{PARTIAL}").open("xb")

    def keep(self, name: str, filename: str, purpose: str, expires_s: float | None) -> File:
        """Make a file durable and known, once its content is written and closed."""
        partial = self._folder / f"{name}{PARTIAL}"
        with partial.open("rb") as content:
            os.fsync(content.fileno())
            num_bytes = os.fstat(content.fileno()).st_size
        partial.rename(self._folder / name)
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        insert = (
            "INSERT INTO files (name, filename, purpose, bytes, created_s, expires_s)"
            " VALUES (?, ?, ?, ?, ?, ?)"
        )
        values = (name, filename, purpose, num_bytes, time.time(), expires_s)
        self._db.execute(insert, values)
        return self.get(name)

    def discard(self, name: str) -> None:
        """Delete an upload that will not be kept."""
        for suffix in (PARTIAL, ""):
            (self._folder / f"{name}{suffix}").unlink(missing_ok=True)

    def path(self, name: str) -> Path:
        """Where the content of an upload is."""
        return self._folder / name

    # -- all files -------------------------------------------------------------------------------

    def get(self, name: str) -> File:
        """Raise FileError if there is no such file."""
        query = f"SELECT {_COLUMNS} FROM all_files WHERE name = ?"
        row = self._db.execute(query, (name,)).fetchone()
        if row is None:
            raise FileError("file_not_found", f"there is no file {name}")
        return File(*row)

    def list_files(
        self, after: str | None, limit: int, purpose: str | None, newest: bool
    ) -> list[File]:
        """Files in order of age that come after file `after`."""
        sign, order = ("<", "DESC") if newest else (">", "ASC")
        query = f"SELECT {_COLUMNS} FROM all_files WHERE purpose = coalesce(?, purpose)"
        values: list[object] = [purpose]
        if after:
            query += f" AND (created_s, name) {sign} (?, ?)"
            values += [self.get(after).created_s, after]
        query += f" ORDER BY created_s {order}, name {order} LIMIT ?"
        return [File(*row) for row in self._db.execute(query, (*values, limit))]

    def content(self, file: File, after: int) -> tuple[bytes, int]:
        """A piece of the content and what to ask for next; begin with `-1`, end at no bytes."""
        if file.part is None:
            with self.path(file.name).open("rb") as stored:
                stored.seek(max(after, 0))
                piece = stored.read(CHUNK_BYTES)
                return piece, stored.tell()
        rows = self._db.execute(_CONTENTS[file.part], (file.job, after, PAGE_RESULTS))
        lines, after = page(rows, after)
        return b"".join(line + b"\n" for line in lines), after

    def delete(self, name: str) -> None:
        """Delete a file. The results of a job lose their text; the job keeps its counts."""
        file = self.get(name)
        if file.part is None:
            self._delete_upload(name)
        elif file.part == "input":
            raise FileError("file_in_use", "it is the input of a job, and is deleted with it")
        else:
            column, ok = ("output_bytes", 1) if file.part == "output" else ("error_bytes", 0)
            with transaction(self._db):
                clear = "UPDATE lines SET result = x'' WHERE job = ? AND seq > 0 AND ok = ?"
                self._db.execute(clear, (file.job, ok))
                self._db.execute(f"UPDATE jobs SET {column} = 0 WHERE id = ?", (file.job,))

    def _delete_upload(self, name: str) -> None:
        query = "SELECT 1 FROM jobs WHERE state = 'validating' AND input_file = ?"
        if self._db.execute(query, (name,)).fetchone():
            raise FileError("file_in_use", f"a batch still reads {name}: cancel it, or wait")
        self._db.execute("DELETE FROM files WHERE name = ?", (name,))
        self.path(name).unlink(missing_ok=True)

    def purge(self, now_s: float, before_s: float) -> None:
        """Delete uploads that are too old, unless a job still reads them."""
        query = (
            "SELECT name FROM files WHERE coalesce(expires_s < ?, created_s < ?) AND name NOT IN"
            " (SELECT input_file FROM jobs WHERE state = 'validating' AND input_file IS NOT NULL)"
        )
        for (name,) in self._db.execute(query, (now_s, before_s)).fetchall():
            self._delete_upload(name)
