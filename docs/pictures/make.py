#!/usr/bin/env python3
"""Make the pictures of the documentation: `.venv/bin/python docs/pictures/make.py`.

Starts a daemon with folders of its own, runs a batch and two chats on real terminals, and writes
what is on their screens as SVG, next to this file.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

from pyte.screens import Char
from rich.console import Console
from rich.style import Style
from rich.text import Text

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from terminal import Terminal  # noqa: E402  the tests' own

BIN = Path(sys.executable).parent
BATCH = ROOT / "examples" / "batch.jsonl"
POOL_BYTES = 25_000_000  # small enough that real-time and best-effort meet
SETTLE_S = 15.0
ANSWER_S = 3.0
STREAM_S = 2.5  # the picture of `bros top` is taken in the middle of an answer
CHAT_END = r"tokens/s, context.*tokens/s, context.*^>$"
COLOURS = {"brown": "yellow", "brightbrown": "bright_yellow"}


def main() -> int:
    folder = Path(tempfile.mkdtemp(prefix="bros-"))
    environ = {
        **os.environ,
        "BROS_RUNTIME_DIR": str(folder / "run"),
        "BROS_STATE_DIR": str(folder / "state"),
        "XDG_STATE_HOME": str(folder / "home"),
        "BROS_SERVER_PORT": str(free_port()),
    }
    shutil.copy(BATCH, folder / "batch.jsonl")
    try:
        command = [str(BIN / "brosd"), "start", "--detach", "--set", f"kv.pool_bytes={POOL_BYTES}"]
        subprocess.run(command, env=environ, check=True)
        take_all(lambda *words, size: Terminal([str(BIN / "bros"), *words], environ, folder, *size))
    finally:
        subprocess.run([BIN / "brosd", "stop", "--now"], env=environ, check=False)
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def take_all(open_: Callable[..., Terminal]) -> None:
    """One batch, and what can be seen while it runs and when it is done."""
    submit = open_("submit", "batch.jsonl", size=(92, 12))
    top = open_("top", size=(92, 26))
    chat = open_("chat", "--temperature", "0", "--max-tokens", "80", size=(92, 18))
    try:
        watch_for(SETTLE_S, submit, top, chat)
        chat.type("What is the capital of France?\r")
        watch_for(ANSWER_S, submit, top, chat)
        chat.type("Give me three tips for a good night's sleep.\r")
        watch_for(STREAM_S, submit, top, chat)
        write(top, "bros top", "top.svg")
        chat.expect(CHAT_END)
        watch_for(1.0, chat, submit)
        write(chat, "bros chat", "chat.svg")
        while submit.process.poll() is None:
            watch_for(0.5, submit)
        watch_for(0.5, submit)
        write(submit, "bros submit batch.jsonl", "submit.svg")
    finally:
        for terminal in (submit, top, chat):
            terminal.close()


def watch_for(seconds: float, *terminals: Terminal) -> None:
    """Let programs run, and keep their screens up to date."""
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        for terminal in terminals:
            terminal.update(0.05)


def write(terminal: Terminal, title: str, name: str) -> None:
    """The screen as SVG, without empty lines at its end."""
    lines = [drawn(terminal, row) for row in range(len(terminal.lines))]
    while lines and not lines[-1].plain.strip():
        lines.pop()
    console = Console(record=True, width=terminal.columns, file=open(os.devnull, "w"))  # noqa: SIM115
    for line in lines:
        console.print(line, no_wrap=True, overflow="crop")
    console.save_svg(str(HERE / name), title=title)
    print(HERE / name)


def drawn(terminal: Terminal, row: int) -> Text:
    """A line of the screen with its colours."""
    text = Text()
    for style, cells in groupby(terminal.cells(row), key=style_of):
        text.append("".join(cell.data for cell in cells), style)
    return text


def style_of(cell: Char) -> Style:
    """What rich calls the looks of a character."""
    return Style(
        color=colour(cell.fg),
        bgcolor=colour(cell.bg),
        bold=cell.bold,
        italic=cell.italics,
        underline=cell.underscore,
        reverse=cell.reverse,
    )


def colour(name: str) -> str | None:
    """What rich calls a colour of pyte."""
    if name == "default":
        return None
    if len(name) == 6 and all(digit in "0123456789abcdef" for digit in name):
        return f"#{name}"
    return COLOURS.get(name, name.replace("bright", "bright_"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
