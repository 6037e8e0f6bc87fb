"""The tokenizer process at its sockets, with the test in the daemon's place."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from bros.brosd.client.client import Client
from bros.brosd.protocol import wire
from bros.kv import Klass
from fake_daemon import CHAT, EOS, TEXT, Daemon, batch_line, stats
from harness import wait_until


@pytest.fixture
def daemon(short_dir: Path, model_dir: Path) -> Iterator[Daemon]:
    daemon = Daemon(short_dir, model_dir)
    yield daemon
    daemon.process.kill()
    daemon.process.wait()


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


def test_probes_tell_whether_it_serves_now(daemon: Daemon) -> None:
    def status(path: str) -> int:
        return httpx.get(f"{daemon.url}{path}").status_code

    assert status("/ready") == status("/health") == 200
    daemon.outbox.send(stats("starting"))  # the model is known, and no worker is up
    wait_until(lambda: status("/ready") == 503)
    assert status("/health") == 503
    daemon.outbox.send(stats())
    wait_until(lambda: status("/ready") == 200)


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
    assert daemon.recv() == wire.Abort(99)  # so the process read Drain before it
    refused = daemon.post(CHAT)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
    daemon.answer(admit.rid, TEXT)
    assert old.result().status_code == 200
    daemon.outbox.send(wire.Stop())
    assert daemon.process.wait(timeout=30) == 0


def test_a_job_outlives_the_process(daemon: Daemon) -> None:
    """Lines in flight when the process was killed run again; lines with a result do not."""
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
