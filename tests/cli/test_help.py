"""Every command's help has an example; the shell can complete its words."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from bros.cli.app import app as bros_app
from bros.cli.daemon import app as brosd_app
from bros.cli.errors import FAILED_LINES, INTERRUPTED

Bros = Callable[..., Any]


def commands(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    """Return all commands below one, by what a user types."""
    below = getattr(command, "commands", None)
    if below is None:
        yield name, command
        return
    for word, each in below.items():
        yield from commands(f"{name} {word}", each)


ALL = [
    *commands("bros", typer.main.get_command(bros_app)),
    *commands("brosd", typer.main.get_command(brosd_app)),
]


@pytest.mark.parametrize(("name", "command"), ALL, ids=[name for name, _ in ALL])
def test_every_command_has_an_example(name: str, command: Any) -> None:
    assert command.help
    assert f"Example: {name}" in command.help
    for parameter in command.params:
        assert getattr(parameter, "help", ""), f"{name}: {parameter.name} is not explained"


def complete(environ: dict[str, str], words: str) -> list[str]:
    """Return the words that bash would offer."""
    done = subprocess.run(
        [str(Path(sys.executable).parent / "bros")],
        env={
            **environ,
            "_BROS_COMPLETE": "complete_bash",
            "_TYPER_COMPLETE_ARGS": words,
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split(" ")) - 1),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.split()


def test_the_shell_completes_jobs(tokenizer: Any, bros: Bros, environ: dict[str, str]) -> None:
    line = b'{"custom_id": "a", "url": "/v1/completions"}\n'
    job = bros("submit", "-", "--detach", stdin=line).stdout.decode().strip()
    assert complete(environ, "bros batch watch ba") == [job]
    assert "submit" in complete(environ, "bros su")


def test_completion_is_silent_without_a_daemon(environ: dict[str, str]) -> None:
    assert complete(environ, "bros batch watch ba") == []


def test_help_does_not_load_what_it_does_not_need() -> None:
    code = "import bros.cli.app, sys; print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert not {"zmq", "numpy", "prompt_toolkit", "asyncio", "rich.progress"} & set(loaded)


def test_exit_codes_are_documented() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "batch.md").read_text()
    for code in (0, 1, 2, FAILED_LINES, INTERRUPTED):
        assert f"| {code} |" in guide
