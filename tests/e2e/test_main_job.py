"""The main job: a batch file runs as best-effort work while chat answers in real time."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from harness import MODEL, MakeServer, Server, wait_until
from traffic import metrics

pytestmark = pytest.mark.slow

NUM_LINES = 240  # enough for chat and dashboard to come and go meanwhile


@pytest.fixture(scope="module")
def server(make_server: MakeServer) -> Server:
    return make_server()


def line(index: int, **changes: object) -> str:
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": f"Say the number {index}."}],
        "max_tokens": 40,
        "temperature": 0,
        **changes,
    }
    request = {"custom_id": f"n-{index}", "method": "POST", "url": "/v1/chat/completions"}
    return json.dumps({**request, "body": body})


def results(path: Path) -> dict[str, dict[str, Any]]:
    rows = [json.loads(text) for text in path.read_text().splitlines()]
    assert len({row["custom_id"] for row in rows}) == len(rows)
    return {row["custom_id"]: row for row in rows}


def test_chat_answers_while_a_batch_runs(server: Server, tmp_path: Path) -> None:
    batch, output = tmp_path / "batch.jsonl", tmp_path / "out.jsonl"
    batch.write_text(
        "\n".join(line(index, max_tokens=64, ignore_eos=True) for index in range(NUM_LINES))
    )
    command = server.command("bros", "submit", str(batch), "-o", str(output))
    submit = subprocess.Popen(command, env=server.environ, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: output.exists() and output.stat().st_size > 0)
    question = ["Name the capital of France.", "--temperature", "0", "--max-tokens", "40"]
    chat = server.run("bros", "chat", "--once", *question)
    assert submit.poll() is None, "the batch was over before the answer"
    assert chat.stdout.strip() == "The capital of France is Paris."
    assert "tokens/s" in chat.stderr
    top = json.loads(server.run("bros", "top", "--once", "--json").stdout)
    assert top["rates"]["be_tokens_per_s"] > 0
    assert top["workers"][0]["blocks"]["be"] + top["workers"][0]["blocks"]["saved"] > 0
    assert top["rt_latency"]["ttft"]["recent"] == top["rt_latency"]["recent_finished"] == 1
    _, progress = submit.communicate(timeout=240.0)
    assert submit.returncode == 0, progress
    assert set(results(output)) == {f"n-{index}" for index in range(NUM_LINES)}
    for row in results(output).values():
        assert row["error"] is None
        assert row["response"]["status_code"] == 200
        assert row["response"]["body"]["choices"][0]["message"]["content"]
    wait_until(lambda: metrics(server)["vllm:time_to_first_token_seconds_count", "be"] == NUM_LINES)
    seen = metrics(server)
    assert seen["vllm:e2e_request_latency_seconds_count", "rt"] == 1
    assert (
        seen["vllm:generation_tokens_total", "be"]
        == seen["bros_output_tokens_total", "be"]
        > NUM_LINES
    )


def test_bad_lines_become_error_lines(server: Server, tmp_path: Path) -> None:
    batch, output = tmp_path / "batch.jsonl", tmp_path / "out.jsonl"
    lines = [line(0), line(1, temperature=-1), line(2, messages=[]), "{broken", line(4), line(4)]
    batch.write_text("\n".join(lines))
    done = server.run("bros", "submit", str(batch), "-o", str(output))
    assert done.returncode == 3, done.stderr
    rows = [json.loads(text) for text in output.read_text().splitlines()]
    assert len(rows) == len(lines)
    errors = [row for row in rows if row["error"] or row["response"]["status_code"] != 200]
    assert len(errors) == 4
    told = json.dumps(errors)
    for word in ("temperature", "messages", "JSON", "custom_id"):
        assert word in told


def test_a_batch_outlives_its_client_and_its_tokenizer(server: Server, tmp_path: Path) -> None:
    batch, output = tmp_path / "batch.jsonl", tmp_path / "out.jsonl"
    batch.write_text("\n".join(line(index) for index in range(80)))
    command = server.command("bros", "submit", str(batch), "-o", str(output))
    submit = subprocess.Popen(command, env=server.environ, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: output.exists() and output.stat().st_size > 0)
    submit.send_signal(signal.SIGINT)
    _, farewell = submit.communicate(timeout=30.0)
    assert submit.returncode == 130
    (job,) = set(re.findall(r"batch-[0-9a-f-]+", farewell))
    subprocess.run(["kill", "-9", str(server.child("bros.brosd.tokenizer"))], check=True)
    done = server.run("bros", "batch", "watch", job, "-o", str(output))
    assert done.returncode == 0, done.stderr
    assert set(results(output)) == {f"n-{index}" for index in range(80)}


def test_batch_jobs_go_on_after_a_restart(server: Server, tmp_path: Path) -> None:
    batch, output = tmp_path / "batch.jsonl", tmp_path / "out.jsonl"
    batch.write_text("\n".join(line(index) for index in range(80)))
    job = server.run("bros", "submit", "--detach", str(batch)).stdout.strip()
    assert server.stop("--now").returncode == 0
    assert server.start().returncode == 0
    done = server.run("bros", "batch", "watch", job, "-o", str(output))
    assert done.returncode == 0, done.stderr
    assert set(results(output)) == {f"n-{index}" for index in range(80)}


def test_standard_input_and_output(server: Server) -> None:
    done = subprocess.run(
        server.command("bros", "submit", "-"),
        env=server.environ,
        input=line(1) + "\n" + line(2) + "\n",
        capture_output=True,
        text=True,
        timeout=120.0,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert {json.loads(text)["custom_id"] for text in done.stdout.splitlines()} == {"n-1", "n-2"}


def test_commands_without_a_daemon_say_so(make_server: MakeServer, tmp_path: Path) -> None:
    server = make_server(start=False)
    (tmp_path / "batch.jsonl").write_text(line(1))
    for command in (["chat", "--once", "Hi"], ["submit", str(tmp_path / "batch.jsonl")]):
        done = server.run("bros", *command)
        assert done.returncode == 1
        assert "brosd start" in done.stderr
