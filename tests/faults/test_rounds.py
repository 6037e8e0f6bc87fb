"""kill -9 and SIGSTOP of each process, at random moments of a batch job with live streams.

Short here. The long form: `BROS_FAULT_ROUNDS=20 BROS_FAULT_LINES=300 pytest -s tests/faults`
"""

from __future__ import annotations

import json
import os
import random
import signal
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import openai
import pytest

from bros.brosd.locks import running_pid
from bros.brosd.tokenizer.jobs.sqlite.database import open_database
from bros.brosd.tokenizer.jobs.sqlite.jobs import SqliteJobs
from harness import FLOAT32, MODEL, MakeServer, Server, wait_until
from traffic import metrics, nothing_is_held

ROUNDS = int(os.environ.get("BROS_FAULT_ROUNDS", "3"))
LINES = int(os.environ.get("BROS_FAULT_LINES", "24"))
STREAMS = 8
VICTIMS = ("bros.workers", "bros.brosd.tokenizer", "brosd")
SUBJECTS = ("cats", "rain", "tea", "trains", "the sea")


def line(index: int) -> bytes:
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": f"{index}: tell me of {SUBJECTS[index % 5]}."}],
        "max_tokens": 12,
        "temperature": 0,
    }
    request = {"custom_id": str(index), "method": "POST", "url": "/v1/chat/completions"}
    return json.dumps({**request, "body": body}).encode() + b"\n"


STREAM_BODY = {
    "model": MODEL,
    "prompt": "Once upon a time, in a small town,",
    "max_tokens": 24,
    "temperature": 0,
    "ignore_eos": True,
    "stream": True,
}


def client_of(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60.0)


def submit(server: Server) -> str:
    client = client_of(server)
    file = client.files.create(
        file=("in.jsonl", b"".join(map(line, range(LINES)))), purpose="batch"
    )
    return client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    ).id


def results(server: Server, batch: str) -> dict[str, str]:
    """Return the texts by custom_id, and fail if a line has two results."""
    name = client_of(server).batches.retrieve(batch).output_file_id
    assert name is not None
    found: dict[str, str] = {}
    for text in client_of(server).files.content(name).iter_lines():
        result = json.loads(text)
        assert result["custom_id"] not in found
        found[result["custom_id"]] = result["response"]["body"]["choices"][0]["message"]["content"]
    return found


def state(server: Server, batch: str) -> str:
    try:
        return client_of(server).batches.retrieve(batch).status
    except openai.APIError:  # between two incarnations
        return ""


class Streams:
    """Live streams, one after another in each thread; broken ones do not count."""

    def __init__(self, server: Server) -> None:
        self._url = f"{server.url}/v1/completions"
        self._stopping = threading.Event()
        self.whole: set[str] = set()
        self.num_whole = 0
        self.threads = [threading.Thread(target=self._run) for _ in range(STREAMS)]

    def _run(self) -> None:
        while not self._stopping.is_set():
            text = self._stream()
            if text is not None:
                self.whole.add(text)
                self.num_whole += 1
            else:
                self._stopping.wait(0.2)

    def _stream(self) -> str | None:
        pieces: list[str] = []
        try:
            with httpx.stream("POST", self._url, json=STREAM_BODY, timeout=60.0) as answer:
                for event in answer.iter_lines():
                    if event == "data: [DONE]":
                        return "".join(pieces)
                    if event.startswith("data: {"):
                        pieces.append(json.loads(event[6:])["choices"][0]["text"])
        except (httpx.HTTPError, KeyError, ValueError):
            pass
        return None

    @contextmanager
    def running(self) -> Iterator[None]:
        for thread in self.threads:
            thread.start()
        yield
        self._stopping.set()
        for thread in self.threads:
            thread.join()


def runs_anew(server: Server, module: str, before: int) -> bool:
    """Return whether the daemon has started another process for `module`."""
    try:
        return server.child(module) != before
    except (AssertionError, FileNotFoundError):
        return False


def harm(server: Server, victim: str, number: int) -> float:
    """Send a signal to a process, and return the seconds until all is ready again."""
    pid = server.pid() if victim == "brosd" else server.child(victim)
    began_s = time.monotonic()
    os.kill(pid, number)
    if number == signal.SIGSTOP and victim == "brosd":  # systemd's watchdog would end it
        time.sleep(1.0)
        os.kill(pid, signal.SIGCONT)
    elif victim == "brosd":
        wait_until(lambda: running_pid(server.runtime) not in (None, pid))
    else:
        wait_until(lambda: not os.path.exists(f"/proc/{pid}"))
    module = "bros.workers" if victim == "brosd" else victim
    wait_until(lambda: runs_anew(server, module, pid) and server.healthy())
    return time.monotonic() - began_s


@pytest.mark.slow
def test_rounds_of_kills(make_server: MakeServer) -> None:
    server = make_server(*FLOAT32, "supervisor.hang_timeout_s=15")
    undisturbed = submit(server)
    wait_until(lambda: state(server, undisturbed) == "completed", 300.0)
    expected = results(server, undisturbed)
    assert len(expected) == LINES
    streams = Streams(server)
    told = streams._stream()
    rng = random.Random(ROUNDS)
    kills_s = []
    with streams.running():
        batch = submit(server)
        for turn in range(ROUNDS):
            number = signal.SIGSTOP if turn % 4 == 3 else signal.SIGKILL
            victim = VICTIMS[turn % 3]
            time.sleep(rng.uniform(0.1, 2.0))
            took_s = harm(server, victim, number)
            print(f"{turn}: {number.name} {victim}: ready after {took_s:.1f} s")
            if number == signal.SIGKILL:
                kills_s.append(took_s)
            if state(server, batch) == "completed":
                assert results(server, batch) == expected
                batch = submit(server)
    wait_until(lambda: state(server, batch) == "completed", 600.0)
    print(f"median of {len(kills_s)} kills: ready after {statistics.median(kills_s):.1f} s")
    assert results(server, batch) == expected
    assert streams.whole <= {told}
    assert streams.num_whole
    wait_until(lambda: nothing_is_held(metrics(server)))


def test_a_truncated_database_is_told(make_server: MakeServer) -> None:
    server = make_server(start=False)
    path = server.folder / "state" / "jobs.sqlite3"
    path.parent.mkdir(parents=True)
    db = open_database(path)
    SqliteJobs(db).put("j", 0, [line(index) for index in range(500)], True)
    db.close()
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    left = path.read_bytes()
    done = server.start()
    assert done.returncode == 1
    assert "jobs.sqlite3 cannot be used" in done.stderr
    assert path.read_bytes() == left  # for whoever wants to save what is there
