"""`bros submit` as a process, against a peer at the daemon's socket."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batches import custom_ids, write_batch
from bros.brosd.protocol import wire
from terminal import Terminal

Bros = Callable[..., Any]


def test_all_lines_get_a_result_next_to_the_input(
    tokenizer: Any, bros: Bros, tmp_path: Path
) -> None:
    write_batch(tmp_path / "many.jsonl", 25)
    done = bros("submit", "many.jsonl")
    assert done.returncode == 0, done.stderr
    assert custom_ids((tmp_path / "many.results.jsonl").read_bytes()) == [
        f"r{i}" for i in range(25)
    ]
    summary = done.stderr.decode()
    assert "25 of 25 lines done, 0 failed" in summary
    assert "output tokens/s" in summary
    assert "results: many.results.jsonl" in summary
    assert re.search(r"answered lines +total +mean +p50 +p95 +max", summary)
    assert re.search(r"prompt tokens +125 +5 +5 +5 +5", summary)
    assert re.search(r"output tokens +250 +10 +10 +10 +10", summary)
    assert re.search(r"result after, s( +\d+\.\d){4}", summary)
    assert "finished by stop 25" in summary


def test_failed_lines_have_their_own_exit_code(tokenizer: Any, bros: Bros, tmp_path: Path) -> None:
    write_batch(tmp_path / "b.jsonl", 3, b"{not json", b"\xff\xfe")
    done = bros("submit", "b.jsonl", "-o", "out.jsonl")
    assert done.returncode == 3
    assert b"5 of 5 lines done, 2 failed" in done.stderr
    assert done.stderr.count(b"failed: a line without custom_id: it is bad\n") == 2
    assert len((tmp_path / "out.jsonl").read_bytes().splitlines()) == 5
    (job,) = tokenizer.jobs.values()
    assert job.lines[3:] == [b"{not json", b"\xff\xfe"]


def test_a_file_that_breaks_on_the_way_leaves_no_job(
    tokenizer: Any, bros: Bros, tmp_path: Path
) -> None:
    (tmp_path / "in.csv").write_text("a\n" + "1\n" * 1200 + '"broken\n')
    done = bros("submit", "in.csv")
    assert done.returncode == 1
    assert b"error: the CSV breaks after line 1201" in done.stderr
    (job,) = tokenizer.jobs.values()
    assert job.cancelled
    assert not job.closed


def test_only_the_first_failures_are_shown(tokenizer: Any, bros: Bros, tmp_path: Path) -> None:
    write_batch(tmp_path / "b.jsonl", 0, *[b'{"custom_id": "x"}'] * 15)
    said = bros("submit", "b.jsonl").stderr.decode()
    assert said.count("failed: ") == 10
    assert "it is bad; further ones are only in the results" in said
    assert "answered lines" not in said


def test_standard_input_to_standard_output(tokenizer: Any, bros: Bros, tmp_path: Path) -> None:
    write_batch(tmp_path / "b.jsonl", 12)
    done = bros("submit", "-", stdin=(tmp_path / "b.jsonl").read_bytes())
    assert done.returncode == 0
    assert custom_ids(done.stdout) == [f"r{i}" for i in range(12)]


def test_detach_names_the_job_to_watch(tokenizer: Any, bros: Bros, tmp_path: Path) -> None:
    write_batch(tmp_path / "b.jsonl", 12)
    done = bros("submit", "b.jsonl", "--detach")
    job = done.stdout.decode().strip()
    assert list(tokenizer.jobs) == [job]
    assert not (tmp_path / "b.results.jsonl").exists()
    watched = bros("batch", "watch", job, "-o", "-")
    assert watched.returncode == 0
    assert len(custom_ids(watched.stdout)) == 12


def test_an_old_output_is_replaced(tokenizer: Any, bros: Bros, tmp_path: Path) -> None:
    write_batch(tmp_path / "b.jsonl", 2)
    (tmp_path / "out.jsonl").write_text("old\n" * 100)
    assert bros("submit", "b.jsonl", "-o", "out.jsonl").returncode == 0
    assert custom_ids((tmp_path / "out.jsonl").read_bytes()) == ["r0", "r1"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["missing.jsonl"], "missing.jsonl: No such file or directory"),
        (["."], "Is a directory"),
        (["empty.jsonl"], "empty.jsonl has no lines"),
        (["b.jsonl", "-o", "b.jsonl"], "b.jsonl is the input"),
        (["b.jsonl", "-o", "no/such/out"], "no/such/out: No such file or directory"),
        (["b.jsonl", "-o", "out", "--detach"], "--detach writes no results"),
        (["-"], "standard input has no lines"),
    ],
)
def test_bad_files_cost_one_line(
    tokenizer: Any, bros: Bros, tmp_path: Path, arguments: list[str], reason: str
) -> None:
    write_batch(tmp_path / "b.jsonl", 1)
    (tmp_path / "empty.jsonl").touch()
    before = (tmp_path / "b.jsonl").read_bytes()
    done = bros("submit", *arguments)
    assert done.returncode == 1
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("error: ")
    assert reason in line
    assert not tokenizer.jobs
    assert (tmp_path / "b.jsonl").read_bytes() == before


def test_ctrl_c_tells_how_to_resume_and_that_works(
    tokenizer: Any, bros: Bros, start_bros: Bros, tmp_path: Path
) -> None:
    write_batch(tmp_path / "b.jsonl", 25)
    tokenizer.hold_at = 12
    process = start_bros("submit", "b.jsonl", "-o", "my out.jsonl")
    tokenizer.wait_for(wire.JobFetch, 4)  # the client waits for lines that do not come
    process.send_signal(signal.SIGINT)
    said = process.communicate()[1].decode()
    assert process.returncode == 130
    assert "12 of 25 lines done" in said
    assert len((tmp_path / "my out.jsonl").read_bytes().splitlines()) == 12
    tokenizer.hold_at = 25
    (command,) = [line for line in said.splitlines() if "batch watch" in line]
    program, *arguments = shlex.split(command.partition(":")[2])
    assert program == "bros"
    assert bros(*arguments).returncode == 0
    assert len(set(custom_ids((tmp_path / "my out.jsonl").read_bytes()))) == 25


def test_ctrl_c_while_sending_submits_nothing(
    tokenizer: Any, start_bros: Bros, tmp_path: Path
) -> None:
    process = start_bros("submit", "-", stdin=subprocess.PIPE)
    process.stdin.write(b"{}\n" * 600)
    process.stdin.flush()
    tokenizer.wait_for(wire.JobPut)
    process.send_signal(signal.SIGINT)
    assert b"nothing was submitted" in process.communicate()[1]
    assert process.returncode == 130
    (job,) = tokenizer.jobs.values()
    assert job.cancelled
    assert not job.closed


def test_results_go_on_after_a_tokenizer_restart(
    tokenizer: Any, start_bros: Bros, tmp_path: Path
) -> None:
    write_batch(tmp_path / "b.jsonl", 25)
    tokenizer.hold_at = 12
    process = start_bros("submit", "b.jsonl", "-o", "out.jsonl")
    tokenizer.wait_for(wire.JobFetch, 4)
    tokenizer.stop()
    tokenizer.hold_at = 25
    tokenizer.start()
    said = process.communicate()[1]
    assert process.returncode == 0, said
    assert custom_ids((tmp_path / "out.jsonl").read_bytes()) == [f"r{i}" for i in range(25)]


def test_a_cancelled_job_is_an_error(
    tokenizer: Any, bros: Bros, start_bros: Bros, tmp_path: Path
) -> None:
    write_batch(tmp_path / "b.jsonl", 25)
    tokenizer.hold_at = 12
    process = start_bros("submit", "b.jsonl")
    tokenizer.wait_for(wire.JobFetch, 4)
    (job,) = tokenizer.jobs
    assert b"is cancelled: 12 of 25 lines are done" in bros("batch", "cancel", job).stdout
    assert b"13 lines without result" in process.communicate()[1]
    assert process.returncode == 1


@pytest.mark.parametrize("size", [(80, 24), (200, 60)])
def test_progress_on_a_terminal(
    tokenizer: Any, terminal: Callable[..., Terminal], tmp_path: Path, size: tuple[int, int]
) -> None:
    write_batch(tmp_path / "b.jsonl", 24, b'{"custom_id": "odd"}')
    tokenizer.hold_at = 12
    screen = terminal("submit", "b.jsonl", size=size)
    screen.expect(r"^[━╸╺ ]+12/25 0 failed, \d+ tokens/s, 0:\d\d left 0:00:\d\d$")
    assert all(len(line) <= size[0] for line in screen.lines)
    tokenizer.hold_at = 25
    assert screen.wait() == 3
    shown = screen.text
    assert "failed: odd: it is bad" in shown
    assert "━" not in shown  # the bar is gone
    assert re.search(r"answered lines.*output tokens +240 +10", shown, re.DOTALL)
    assert re.search(r"25 of 25 lines done, 1 failed in \d+\.\d s \(.* output tokens/s\)", shown)
    assert "results: b.results.jsonl" in shown
