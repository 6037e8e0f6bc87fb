#!/usr/bin/env python3
"""A batch job and chat at the same time, from one model: `python examples/demo.py`.

Starts a daemon with folders of its own, submits batch.jsonl, asks three questions while the batch
runs, waits for the batch, and stops the daemon. Results and logs are in .demo/ afterwards.
Everything is done with the commands `brosd` and `bros`, which you can type as well.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console

BATCH = Path(__file__).parent / "batch.jsonl"
FOLDER = Path(".demo")
RESULTS = FOLDER / "results.jsonl"
SUBMIT_LOG = FOLDER / "submit.log"
QUESTIONS = (
    "What is the capital of France?",
    "Why do we see lightning before we hear thunder? Answer in two sentences.",
    "Give me three tips for a good night's sleep.",
)
START_TIMEOUT_S = 120
BATCH_TIMEOUT_S = 1800

console = Console(highlight=False, soft_wrap=True)


class DemoError(RuntimeError):
    """The demo did not show what it promises; the text says what went wrong."""


def main() -> int:
    FOLDER.mkdir(exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the daemon is stopped
    state = tempfile.mkdtemp(prefix="state-", dir=FOLDER.resolve())
    runtime = tempfile.mkdtemp(prefix="bros-demo-")  # sockets need a short path
    os.environ.update(BROS_STATE_DIR=state, BROS_RUNTIME_DIR=runtime)
    try:
        run("brosd", "start", "--detach", "--set", f"server.port={free_port()}")
        show_both_classes()
    except (DemoError, subprocess.CalledProcessError) as error:
        console.print(f"\n[bold red]The demo failed:[/] {error}\nThe daemon's log is in {state}")
        return 1
    else:
        shutil.rmtree(state, ignore_errors=True)
        return 0
    finally:
        subprocess.run([program("brosd"), "stop", "--now"], check=False)
        shutil.rmtree(runtime, ignore_errors=True)


def show_both_classes() -> None:
    """Chat (real-time) while a batch (best-effort) keeps the machine busy."""
    with SUBMIT_LOG.open("wb") as log:
        command = [program("bros"), "submit", str(BATCH), "-o", str(RESULTS)]
        batch = subprocess.Popen(command, stderr=log)
    try:
        wait_until_running(batch)
        for question in QUESTIONS:
            ask(question)
        if batch.poll() is None:
            console.print("\nAll answers came while the batch ran. Waiting for the rest of it ...")
        else:
            console.print("\nThis machine is fast: the batch was over before the last answer.")
        if batch.wait(BATCH_TIMEOUT_S) != 0:
            raise DemoError(f"bros submit says:\n{SUBMIT_LOG.read_text()}")
    except subprocess.TimeoutExpired:
        raise DemoError(f"the batch was not done after {BATCH_TIMEOUT_S} s") from None
    finally:
        batch.kill()
    check_results()


def wait_until_running(batch: subprocess.Popen[bytes]) -> None:
    console.print(f"\n[bold]Batch:[/] {BATCH.name} is submitted", end="")
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline_s:
        if batch.poll() is not None:
            raise DemoError(f"bros submit ended early:\n{SUBMIT_LOG.read_text()}")
        stats = run_json("bros", "status", "--json")
        if stats and stats["be"]["running"]:
            console.print(f", {stats['be']['running']} of its requests run")
            return
    raise DemoError(f"no request of the batch ran within {START_TIMEOUT_S} s")


def ask(question: str) -> None:
    options = ("--temperature", "0", "--max-tokens", "64", "--json")
    answer = run_json("bros", "chat", "--once", question, *options)
    console.print(f"\n[bold]Chat:[/] {question}")
    console.print(answer["answer"].strip(), style="green", markup=False)
    ttft_ms, tpot_ms = answer["ttft_s"] * 1000, (answer["tpot_s"] or 0) * 1000
    tokens = answer["output_tokens"]
    console.print(f"TTFT {ttft_ms:.0f} ms, TPOT {tpot_ms:.0f} ms, {tokens} tokens", style="dim")


def check_results() -> None:
    """Check that each line of the batch has exactly one result, with an answer in it."""
    asked = [json.loads(line)["custom_id"] for line in BATCH.open()]
    results = [json.loads(line) for line in RESULTS.open()]
    if sorted(result["custom_id"] for result in results) != sorted(asked):
        raise DemoError(f"{RESULTS} does not have one result for each of {len(asked)} lines")
    if failed := [result["custom_id"] for result in results if not is_answer(result)]:
        raise DemoError(f"lines failed: {', '.join(failed)}")
    (summary,) = [line for line in SUBMIT_LOG.read_text().splitlines() if "lines done, " in line]
    console.print(f"[bold]Batch:[/] {summary}\nIts results are in {RESULTS}")


def is_answer(result: dict[str, Any]) -> bool:
    return result["error"] is None and result["response"]["status_code"] == 200


def program(name: str) -> str:
    """Return the path of a command in the environment that runs this script."""
    folders = [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    found = shutil.which(name, path=os.pathsep.join(folders))
    if found is None:
        raise DemoError(f"there is no command {name}: pip install -e .")
    return found


def run(name: str, *arguments: str) -> None:
    console.print(f"[dim]$ {name} {' '.join(arguments)}[/]")
    subprocess.run([program(name), *arguments], check=True)


def run_json(name: str, *arguments: str) -> Any:
    return json.loads(subprocess.check_output([program(name), *arguments]))


def free_port(preferred: int = 8000) -> int:
    """Return the preferred port, or any free one if it is taken."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise DemoError("no port is free")


if __name__ == "__main__":
    sys.exit(main())
