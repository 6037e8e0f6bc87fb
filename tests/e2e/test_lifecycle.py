"""What an operator sees of `brosd start`, `stop`, `status` and `check-config`, also of failures."""

from __future__ import annotations

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from harness import MODEL, PLAIN, START_TIMEOUT_S, MakeServer, Server, free_port, wait_until
from traffic import wait_for_stats

LONG = {"model": MODEL, "prompt": "Once", "max_tokens": 60, "temperature": 0, "ignore_eos": True}


uses_server = pytest.mark.server(*PLAIN)


@uses_server
def test_status_tells_what_is_served(server: Server) -> None:
    wait_for_stats(server)
    done = server.run("brosd", "status", "--json")
    assert done.returncode == 0, done.stderr
    stats = json.loads(done.stdout)
    assert stats["state"] == "ready"
    assert stats["model"] == MODEL
    assert stats["kv"]["blocks_free"] == stats["kv"]["blocks_total"] > 0
    assert MODEL in server.run("brosd", "status").stdout


@uses_server
def test_a_second_daemon_is_refused(server: Server) -> None:
    done = server.start()
    assert done.returncode == 1
    assert f"process {server.pid()}" in done.stderr


@uses_server
def test_a_taken_port_is_named(server: Server, make_server: MakeServer) -> None:
    other = make_server(start=False)
    other.port = server.port
    done = other.start()
    assert done.returncode == 1
    assert str(server.port) in done.stderr
    assert other.run("brosd", "status").returncode == 3


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("model.name=/nowhere/model", "/nowhere/model"),
        ("kv.pool_bytes=1000", "kv.pool_bytes"),
        ("scheduler.policy=best", "allowed: bros, fcfs"),
        ("server.prot=1", "did you mean port?"),
    ],
)
def test_a_start_that_fails_says_why(make_server: MakeServer, setting: str, words: str) -> None:
    server = make_server(setting, start=False)
    done = server.start()
    assert done.returncode != 0
    assert words in done.stderr
    assert server.run("brosd", "status").returncode == 3


@pytest.mark.slow
def test_stop_waits_for_answers_and_leaves_nothing(make_server: MakeServer) -> None:
    server = make_server()
    processes = [
        server.pid(),
        server.child("bros.workers"),
        server.child("bros.brosd.tokenizer"),
    ]
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(httpx.post, f"{server.url}/v1/completions", json=LONG, timeout=60.0)
        wait_until(lambda: running_requests(server) == 1)
        assert server.stop().returncode == 0
        assert answer.result().json()["usage"]["completion_tokens"] == 60
    wait_until(lambda: not any(Path(f"/proc/{process}").exists() for process in processes), 10.0)
    assert {path.name for path in server.runtime.iterdir()} == {"brosd.lock"}
    assert "not running" in server.stop().stdout


@pytest.mark.slow
def test_stop_now_does_not_wait(make_server: MakeServer) -> None:
    server = make_server()
    with ThreadPoolExecutor() as pool:
        endless = {**LONG, "max_tokens": 8000, "stream": True}
        pool.submit(httpx.post, f"{server.url}/v1/completions", json=endless, timeout=60.0)
        wait_until(lambda: running_requests(server) == 1)
        assert server.stop("--now").returncode == 0
    assert not server.healthy()


def running_requests(server: Server) -> int:
    return int(json.loads(server.run("brosd", "status", "--json").stdout)["rt"]["running"])


@pytest.mark.slow
def test_foreground_ends_on_ctrl_c(make_server: MakeServer) -> None:
    server = make_server(start=False)
    process = subprocess.Popen(
        server.command("brosd", "start"), env=server.environ, stderr=subprocess.PIPE, text=True
    )
    wait_until(server.healthy, START_TIMEOUT_S)
    process.send_signal(2)
    _, log = process.communicate(timeout=60.0)
    assert process.returncode == 0
    assert "event=ready" in log
    assert "event=stopped" in log


@uses_server
def test_check_config_prints_what_start_would_use(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(f"[server]\nport = {free_port()}\n[kv]\nblock_size = 32\n")
    done = server.run("brosd", "check-config", "--config", str(file))
    assert done.returncode == 0
    assert "kv.block_size = 32" in done.stdout
    assert f"server.port = {server.port}" in done.stdout  # BROS_SERVER_PORT wins over the file
    done = server.run("brosd", "check-config", "--config", str(file), "--json")
    assert json.loads(done.stdout)["kv"]["block_size"] == 32
    file.write_text("[server]\nport = 'http'\n")
    done = server.run("brosd", "check-config", "--config", str(file))
    assert done.returncode == 2
    assert "server.port" in done.stderr
