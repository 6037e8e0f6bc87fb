"""Errors that a user can correct: one line on standard error and an exit code, no traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from bros.cli.printable import printable

FAILED_LINES = 3  # the batch is over and some of its lines failed
INTERRUPTED = 130


class InputError(ValueError):
    """The user's input cannot be used; the text says why, and what can be used instead."""


def guarded(app: Callable[[], object]) -> int:
    """Run a typer app and return the exit code. Unexpected errors keep their traceback."""
    try:
        app()
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else 0
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        code = _exit_code(error)
        if code is None:
            raise
        print(f"error: {one_line(error)}", file=sys.stderr)
        return code
    return 0


def _exit_code(error: Exception) -> int | None:
    from bros.brosd.client.client import ClientError
    from bros.brosd.config import ConfigError
    from bros.brosd.lifecycle import KeyFileError, ServeError

    if isinstance(error, ConfigError):
        return 2
    return (
        1
        if isinstance(error, InputError | ClientError | KeyFileError | ServeError | OSError)
        else None
    )


def one_line(error: Exception) -> str:
    """Return what went wrong in one line, with the name of the file if there is one."""
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return printable(f"{where}{error.strerror}")
    return printable(" ".join(str(error).split()))
