"""What all commands of `bros` have in common: errors of one line, exit codes, a fast start."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from batches import write_batch

Bros = Callable[..., Any]


def test_without_a_daemon(bros: Bros, tmp_path: Path) -> None:
    write_batch(tmp_path / "b.jsonl", 1)
    for arguments in (["submit", "b.jsonl"], ["batch", "list"], ["status"], ["chat", "--once=a"]):
        done = bros(*arguments)
        assert done.returncode == 1
        (line,) = done.stderr.decode().splitlines()
        assert "brosd start" in line


def test_usage_errors_are_2(bros: Bros) -> None:
    assert bros("submit").returncode == 2
    assert bros("status", "--set", "server.prot=1").returncode == 2
    assert b"did you mean port" in bros("status", "--set", "server.prot=1").stderr


def test_status(tokenizer: Any, bros: Bros) -> None:
    assert json.loads(bros("status", "--json").stdout)["rt"]["running"] == 2
    shown = bros("status").stdout.decode()
    assert "ready, up 1:02:03" in shown
    assert "best-effort" in shown


def test_help_does_not_load_what_it_does_not_need(bros: Bros) -> None:
    code = (
        "import sys, contextlib\nfrom bros.cli.app import app\n"
        "with contextlib.suppress(SystemExit): app(['--help'])\n"
        "print(sorted({'torch', 'transformers', 'numpy', 'zmq', 'asyncio'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout.splitlines()[-1] == b"[]"
