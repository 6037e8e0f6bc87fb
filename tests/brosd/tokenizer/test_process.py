"""The tokenizer process at its sockets, with the test in the daemon's place."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from bros.brosd import wire
from bros.brosd.api import Client
from bros.brosd.config import load, save
from bros.brosd.link import BlockingInbox, BlockingOutbox
from bros.kv import Klass
from harness import MODEL, free_port, wait_until

EOS = 2
TEXT = [504, 3575, 282, 4649]  # any four ids
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8}


class Daemon:
    """The daemon's side: takes requests, answers with tokens of its own choosing."""

    def __init__(self, runtime: Path, model: Path) -> None:
        self.runtime = runtime
        self.port = free_port()
        settings = [f"runtime_dir={runtime}", f"state_dir={runtime}", f"server.port={self.port}"]
        save(load(overrides=settings, environ={}), runtime / "config.json")
        self.inbox: BlockingInbox[wire.ToDaemon] = BlockingInbox(
            runtime / "daemon.sock", wire.ToDaemon
        )
        self.model = model
        self.generation = 0
        self.start()

    def start(self) -> None:
        """Start the next incarnation and make it ready."""
        self.generation += 1
        command = [sys.executable, "-m", "bros.brosd.tokenizer", "--runtime-dir", str(self.runtime)]
        command += ["--generation", str(self.generation), "--model", str(self.model)]
        self.process = subprocess.Popen(command)
        self.outbox: BlockingOutbox[wire.ToTokenizer] = BlockingOutbox(
            self.runtime / f"tokenizer.{self.generation}.sock"
        )
        assert self.recv() == wire.Hello("tokenizer", self.generation)
        assert self.recv() == wire.Ready("tokenizer", self.generation)
        self.outbox.send(stats())
        wait_until(lambda: self.health().status_code == 200)

    def health(self) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.port}/health")

    def recv(self) -> wire.ToDaemon:
        while True:
            message = self.inbox.recv()
            if not isinstance(message, wire.Beat):
                return message

    def recv_admit(self) -> wire.Admit:
        message = self.recv()
        assert isinstance(message, wire.Admit)
        return message

    def emit(self, rid: int, token: int, finish: wire.FinishReason) -> None:
        self.outbox.send(wire.Emit([rid], wire.pack_ids([token]), [finish]))

    def answer(self, rid: int, tokens: list[int]) -> None:
        for token in tokens:
            self.emit(rid, token, wire.FinishReason.NONE)
        self.emit(rid, EOS, wire.FinishReason.STOP)

    def post(self, body: dict, url: str = "/v1/chat/completions") -> httpx.Response:
        return httpx.post(f"http://127.0.0.1:{self.port}{url}", json=body, timeout=30.0)


def stats(state: str = "ready", max_len: int = 512) -> wire.Stats:
    return wire.Stats(
        state=state,
        model=MODEL,
        policy="bros",
        uptime_s=1.0,
        max_len=max_len,
        iterations=0,
        iteration_s=0.0,
        scheduling_s=0.0,
        prediction_error=0.0,
        prediction_error_p95=0.0,
        worker_restarts=0,
        tokenizer_restarts=0,
        rt=wire.ClassStats(),
        be=wire.ClassStats(),
        kv=wire.KvStats(blocks_total=8, blocks_free=8),
        slo=wire.Slo(ttft_s=0.5, tpot_s=0.08),
    )


@pytest.fixture
def daemon(short_dir: Path, model_dir: Path) -> Iterator[Daemon]:
    daemon = Daemon(short_dir, model_dir)
    yield daemon
    daemon.process.kill()
    daemon.process.wait()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as pool:
        yield pool


def test_an_answer_has_all_its_parts(daemon: Daemon, pool: ThreadPoolExecutor) -> None:
    response = pool.submit(daemon.post, {**CHAT, "temperature": 0.5, "seed": 3, "top_k": 7})
    admit = daemon.recv_admit()
    assert admit.klass is Klass.RT
    assert admit.max_tokens == 8
    assert EOS in admit.stop_ids
    assert admit.sampling == wire.Sampling(temperature=0.5, top_k=7, seed=3)
    daemon.answer(admit.rid, TEXT)
    answer = response.result().json()
    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["finish_reason"] == "stop"
    num_prompt = len(wire.unpack_ids(admit.prompt))
    usage = {"prompt_tokens": num_prompt, "completion_tokens": 5, "total_tokens": num_prompt + 5}
    assert {key: answer["usage"][key] for key in usage} == usage


def test_service_tier_flex_is_best_effort(daemon: Daemon, pool: ThreadPoolExecutor) -> None:
    response = pool.submit(daemon.post, {**CHAT, "service_tier": "flex", "ignore_eos": True})
    admit = daemon.recv_admit()
    assert admit.klass is Klass.BE
    assert admit.stop_ids == []
    daemon.answer(admit.rid, TEXT)
    assert response.result().json()["service_tier"] == "flex"


def test_a_client_that_leaves_aborts_its_request(daemon: Daemon, pool: ThreadPoolExecutor) -> None:
    url = f"http://127.0.0.1:{daemon.port}/v1/chat/completions"
    with httpx.Client() as client:
        sent = client.build_request("POST", url, json={**CHAT, "stream": True})
        opened = pool.submit(client.send, sent, stream=True)
        admit = daemon.recv_admit()
        daemon.emit(admit.rid, TEXT[0], wire.FinishReason.NONE)
        opened.result().close()
    assert daemon.recv() == wire.Abort(admit.rid)


def test_tokens_that_nobody_waits_for_are_aborted(daemon: Daemon) -> None:
    daemon.emit(12345, TEXT[0], wire.FinishReason.NONE)
    assert daemon.recv() == wire.Abort(12345)


def test_a_stop_string_aborts_the_rest(daemon: Daemon, pool: ThreadPoolExecutor) -> None:
    response = pool.submit(daemon.post, {**CHAT, "stop": ["a", "e", "i", "o", "u"]})
    admit = daemon.recv_admit()
    daemon.emit(admit.rid, TEXT[1], wire.FinishReason.NONE)
    assert daemon.recv() == wire.Abort(admit.rid)
    assert response.result().json()["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(("status", "code"), [(429, "queue_full"), (500, "worker_lost")])
def test_the_daemons_refusals_reach_the_client(
    daemon: Daemon, pool: ThreadPoolExecutor, status: int, code: str
) -> None:
    response = pool.submit(daemon.post, CHAT)
    daemon.outbox.send(wire.Fail(daemon.recv_admit().rid, status, code, "no"))
    answer = response.result()
    assert answer.status_code == status
    assert answer.json()["error"]["code"] == code
    assert ("retry-after" in answer.headers) == (status == 429)


def test_health_follows_the_daemon(daemon: Daemon) -> None:
    daemon.outbox.send(stats("starting"))
    wait_until(lambda: daemon.health().status_code == 503)
    assert daemon.health().json()["status"] == "starting"
    daemon.outbox.send(stats("ready"))
    wait_until(lambda: daemon.health().status_code == 200)


def test_draining_refuses_new_work_and_finishes_old(
    daemon: Daemon, pool: ThreadPoolExecutor
) -> None:
    old = pool.submit(daemon.post, CHAT)
    admit = daemon.recv_admit()
    daemon.outbox.send(wire.Drain())
    daemon.emit(99, TEXT[0], wire.FinishReason.NONE)
    assert daemon.recv() == wire.Abort(99)  # so Drain was taken before it
    refused = daemon.post(CHAT)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
    daemon.answer(admit.rid, TEXT)
    assert old.result().status_code == 200
    daemon.outbox.send(wire.Stop())
    assert daemon.process.wait(timeout=30) == 0


def batch_line(index: int) -> bytes:
    request = {"custom_id": f"n{index}", "method": "POST", "url": "/v1/chat/completions"}
    return json.dumps({**request, "body": CHAT}).encode()


def test_a_job_outlives_the_process(daemon: Daemon) -> None:
    """Lines that were in flight when it was killed run again; those with a result do not."""
    with Client(daemon.runtime) as client:
        client.put_job("j", [batch_line(index) for index in range(6)])
        admits = [daemon.recv_admit() for _ in range(6)]
        assert {admit.klass for admit in admits} == {Klass.BE}
        for admit in admits[:2]:
            daemon.answer(admit.rid, TEXT)
        results: list[bytes] = []
        while len(results) < 2:
            page = client.fetch("j", len(results))
            results += page.results
        daemon.process.kill()
        daemon.process.wait()
        daemon.start()
        for _ in range(4):
            daemon.answer(daemon.recv_admit().rid, TEXT)
        while len(results) < 6:
            page = client.fetch("j", len(results))
            results += page.results
    assert page.status.state == "completed"
    assert {json.loads(result)["custom_id"] for result in results} == {f"n{i}" for i in range(6)}


def test_a_job_is_cancelled(daemon: Daemon) -> None:
    with Client(daemon.runtime) as client:
        client.put_job("j", [batch_line(0)])
        admit = daemon.recv_admit()
        assert client.cancel_job("j").state == "cancelled"
        assert daemon.recv() == wire.Abort(admit.rid)
        assert [job.state for job in client.jobs()] == ["cancelled"]
