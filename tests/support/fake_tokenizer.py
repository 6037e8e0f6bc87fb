"""A stand-in for the tokenizer process: it listens at `client.sock` and speaks the protocol."""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import zmq

from bros.brosd.protocol import wire
from bros.brosd.protocol.sockets import encode, ipc

DEADLINE_S = 60.0
ANSWER = ["The capital", " is **Paris**", ".\n\n", "It is", " in France."]
POLL_MS = 20


def worker(index: int) -> wire.WorkerStats:
    """Return a worker's state, with blocks of every use."""
    blocks = wire.BlockMap(
        free=300, cached=200, rt=250, be=150, saved=80, shared=20, cells="RRXBBSc..." * 30
    )
    return wire.WorkerStats(f"worker-{index}", ready=True, running=(2, 30), blocks=blocks)


def stats(**changes: Any) -> wire.Stats:
    """Return the state of a daemon that is ready."""
    known: dict[str, Any] = {
        "state": "ready",
        "model": "smollm2-135m-instruct",
        "policy": "bros",
        "uptime_s": 3723.0,
        "max_len": 2048,
        "iterations": 12345,
        "iteration_s": 0.0325,
        "scheduling_s": 6.0,
        "prediction_error": 0.045,
        "prediction_error_p95": 0.12,
        "worker_restarts": 1,
        "tokenizer_restarts": 0,
        "rt": wire.ClassStats(running=2, finished=200, in_time=190, output_tokens=640),
        "be": wire.ClassStats(running=30, waiting=11, finished=7),
        "kv": wire.KvStats(blocks_total=1000, blocks_free=750, saved_blocks=12),
        "slo": wire.Slo(ttft_s=0.5, tpot_s=0.08),
        "rt_latency": wire.LatencyStats(
            ttft=wire.Distribution(recent=9, p50_s=0.085, p95_s=0.21, p99_s=0.61),
            tpot=wire.Distribution(recent=9, p50_s=0.031, p95_s=0.035, p99_s=0.041),
            recent_finished=50,
            recent_in_time=49,
        ),
        "workers": [worker(0)],
    }
    return wire.Stats(**{**known, **changes})


def later(stats: wire.Stats) -> wire.Stats:
    """Return what a busy daemon reports a second later."""
    more = {"rt": 30, "be": 400}
    rows = {
        name: msgspec.structs.replace(row, output_tokens=row.output_tokens + more[name])
        for name, row in (("rt", stats.rt), ("be", stats.be))
    }
    return msgspec.structs.replace(stats, uptime_s=stats.uptime_s + 1, **rows)


@dataclass
class Job:
    """A stored batch job; the first `released` lines have a result."""

    lines: list[bytes] = field(default_factory=list)
    closed: bool = False
    cancelled: bool = False
    released: int = 0

    def result(self, index: int) -> tuple[bytes, bool]:
        try:
            request = dict(json.loads(self.lines[index]))
        except (ValueError, TypeError):
            request = {}
        failed = request.get("url") not in ("/v1/chat/completions", "/v1/completions")
        usage = {"prompt_tokens": 5, "completion_tokens": 10}
        body = {"choices": [{"finish_reason": "stop"}], "usage": usage}
        answer = {
            "custom_id": request.get("custom_id"),
            "response": None if failed else {"status_code": 200, "body": body},
            "error": {"code": "bad_line", "message": "it is bad"} if failed else None,
        }
        return json.dumps(answer).encode(), failed

    def status(self, name: str) -> wire.JobStatus:
        failed = sum(self.result(i)[1] for i in range(self.released))
        over = self.closed and self.released == len(self.lines)
        state = "completed" if over else "in_progress" if self.closed else "validating"
        return wire.JobStatus(
            job=name,
            state="cancelled" if self.cancelled else state,
            created_s=1.7e9,
            total=len(self.lines),
            completed=self.released - failed,
            failed=failed,
            output_tokens=10 * self.released,
        )


class FakeTokenizer:
    """Answers like the tokenizer process. Jobs outlive `stop` and `start`, streams do not."""

    def __init__(self, runtime: Path) -> None:
        self.runtime = runtime
        self.jobs: dict[str, Job] = {}
        self.lines_per_fetch = 10
        self.hold_at = 10**9  # a job gets at most so many results
        self.deaf = 0  # so many messages get no answer
        self.busy = False  # each `StatusQuery` finds the daemon a second older
        self.stats: wire.Stats | None = stats()
        self.seen: list[Any] = []
        self._news = threading.Condition()
        self._streams: dict[tuple[bytes, int], Iterator[bytes]] = {}
        self._thread: threading.Thread | None = None

    def add_job(self, name: str, total: int, done: int) -> None:
        """Store a job whose first `done` lines have results; every fourth line fails."""
        good, bad = b'{"url": "/v1/completions"}', b'{"url": "/nowhere"}'
        lines = [bad if index % 4 == 3 else good for index in range(total)]
        self.jobs[name] = Job(lines, closed=True, released=done)

    def start(self) -> None:
        self._stopping = threading.Event()
        bound = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(bound,), daemon=True)
        self._thread.start()
        assert bound.wait(DEADLINE_S)

    def stop(self) -> None:
        """Close the socket and forget the streams, as a killed process does."""
        self._stopping.set()
        if self._thread:
            self._thread.join(DEADLINE_S)
        (self.runtime / "client.sock").unlink(missing_ok=True)

    def wait_for(self, kind: type, count: int = 1) -> Any:
        """Wait for `count` messages of a kind, and return the latest."""

        def found() -> list[Any]:
            return [message for message in self.seen if isinstance(message, kind)]

        with self._news:
            assert self._news.wait_for(lambda: len(found()) >= count, DEADLINE_S), self.seen
            return found()[-1]

    def _serve(self, bound: threading.Event) -> None:
        self._streams = {}
        decoder = msgspec.msgpack.Decoder(wire.FromClient)
        context = zmq.Context()
        self._socket = context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(ipc(self.runtime / "client.sock"))
        bound.set()
        while not self._stopping.is_set():
            if self._socket.poll(POLL_MS):
                peer, frame = self._socket.recv_multipart()
                message = decoder.decode(frame)
                with self._news:  # before the answer, which is what a test waits for
                    self.seen.append(message)
                    self._news.notify_all()
                if self.deaf:
                    self.deaf -= 1
                else:
                    self._handle(peer, message)
            for key in list(self._streams):
                self._pour(key)
        self._socket.close()
        context.term()

    def _send(self, peer: bytes, message: wire.Message) -> None:
        self._socket.send_multipart([peer, encode(message)])

    def _pour(self, key: tuple[bytes, int]) -> None:
        peer, rid = key
        piece = next(self._streams[key], None)
        if piece is None:
            del self._streams[key]
        if piece != b"silence":
            last = piece is None
            self._send(peer, wire.Reply(rid=rid, status=200, body=piece or b"", last=last))

    def _handle(self, peer: bytes, message: Any) -> None:
        match message:
            case wire.OpenAIRequest():
                self._ask(peer, message)
            case wire.Cancel(rid=rid):
                self._streams.pop((peer, rid), None)
            case wire.StatusQuery(rid=rid):
                self._send(peer, wire.Status(rid=rid, stats=self.stats))
                if self.busy and self.stats:
                    self.stats = later(self.stats)
            case wire.JobPut(rid=rid):
                self._put(peer, message)
            case wire.JobList(rid=rid):
                rows = [job.status(name) for name, job in self.jobs.items()]
                self._send(peer, wire.Jobs(rid=rid, jobs=rows))
            case wire.JobFetch(rid=rid, job=name) | wire.JobCancel(rid=rid, job=name):
                if name in self.jobs:
                    self._page(peer, message, self.jobs[name])
                else:
                    refusal = wire.Refused(rid=rid, code="not_found", message=f"no job {name}")
                    self._send(peer, refusal)

    def _put(self, peer: bytes, put: wire.JobPut) -> None:
        job = self.jobs.setdefault(put.job, Job())
        job.lines[put.first : put.first + len(put.lines)] = put.lines
        job.closed |= put.last
        self._send(peer, wire.JobAck(rid=put.rid, received=len(job.lines)))

    def _page(self, peer: bytes, message: wire.JobFetch | wire.JobCancel, job: Job) -> None:
        if isinstance(message, wire.JobCancel):
            job.cancelled, after = True, job.released
        else:
            after = message.after
            if job.closed and not job.cancelled:
                most = min(len(job.lines), self.hold_at, after + self.lines_per_fetch)
                job.released = max(job.released, most)
        until = min(job.released, after + self.lines_per_fetch)
        results = [job.result(i)[0] for i in range(after, until)]
        status = job.status(message.job)
        self._send(peer, wire.JobPage(rid=message.rid, status=status, results=results, next=until))

    def _ask(self, peer: bytes, ask: wire.OpenAIRequest) -> None:
        """Answer as the last message says: `refuse`, `endless`, `hang` after a word, or in full.

        An answer in full stops by itself, or for its length after `limit`.
        """
        question = msgspec.json.decode(ask.body)["messages"][-1]["content"]
        if "refuse" in question:
            error = {"message": "too long: 9 tokens", "code": "context_length_exceeded"}
            content = msgspec.json.encode({"error": error})
            self._send(peer, wire.Reply(rid=ask.rid, status=400, body=content, last=True))
        elif "endless" in question:
            self._streams[peer, ask.rid] = (chunk("on and ") for _ in iter(int, 1))
        elif "hang" in question:
            self._streams[peer, ask.rid] = iter([chunk("well, "), *[b"silence"] * 10**6])
        else:
            pieces = [chunk(piece) for piece in ANSWER]
            finish = "length" if "limit" in question else "stop"
            self._streams[peer, ask.rid] = iter([chunk(""), *pieces, *ending(len(ANSWER), finish)])


def chunk(piece: str, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": piece}, "finish_reason": finish}
    return msgspec.json.encode({"object": "chat.completion.chunk", "choices": [choice]})


def ending(num_tokens: int, finish: str = "stop") -> list[bytes]:
    usage = {"prompt_tokens": 5, "completion_tokens": num_tokens, "total_tokens": 5 + num_tokens}
    return [chunk("", finish), msgspec.json.encode({"choices": [], "usage": usage})]


@contextmanager
def lock(runtime: Path) -> Iterator[None]:
    """Hold the lock of the folder, as a daemon does."""
    with (runtime / "brosd.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(str(os.getpid()))
        file.flush()
        yield
