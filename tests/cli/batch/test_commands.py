"""`bros batch list` and `bros batch watch` as processes, against a peer at the daemon's socket."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from batches import write_batch

Bros = Callable[..., Any]


def test_jobs_are_listed(tokenizer: Any, bros: Bros, tmp_path: Path) -> None:
    assert bros("batch", "list").stdout.strip() == b"no batch jobs"
    write_batch(tmp_path / "b.jsonl", 4)
    bros("submit", "b.jsonl")
    (job,) = json.loads(bros("batch", "list", "--json").stdout)
    assert (job["state"], job["total"], job["completed"]) == ("completed", 4, 4)
    assert job["job"].encode() in bros("batch", "list").stdout


def test_watching_no_job_leaves_the_output_alone(
    tokenizer: Any, bros: Bros, tmp_path: Path
) -> None:
    (tmp_path / "out.jsonl").write_text("precious")
    done = bros("batch", "watch", "nope", "-o", "out.jsonl")
    assert (done.returncode, done.stderr) == (1, b"error: no job nope\n")
    assert (tmp_path / "out.jsonl").read_text() == "precious"
