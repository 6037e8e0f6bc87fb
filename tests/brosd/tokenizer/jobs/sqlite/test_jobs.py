"""Batch jobs on disk: what is acknowledged stays, each line gets one result."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from bros.brosd.tokenizer.jobs.errors import JobError, UnusableStoreError
from bros.brosd.tokenizer.jobs.job import Outcome
from bros.brosd.tokenizer.jobs.sqlite.database import open_database
from bros.brosd.tokenizer.jobs.sqlite.jobs import SqliteJobs


def lines(*names: str) -> list[bytes]:
    return [json.dumps({"custom_id": name}).encode() for name in names]


@pytest.fixture
def store(tmp_path: Path) -> SqliteJobs:
    return SqliteJobs(open_database(tmp_path / "jobs.sqlite3"))


def test_parts_make_a_job(store: SqliteJobs) -> None:
    assert store.put("j", 0, lines("a", "b"), False) == 2
    assert store.running() == []
    assert store.put("j", 2, lines("c"), True) == 3
    (job,) = store.running()
    assert [line.content for line in store.pending(job, -1, 10)] == lines("a", "b", "c")
    assert [line.number for line in store.pending(job, 0, 1)] == [1]


def test_parts_may_be_sent_again_and_must_not_leave_gaps(store: SqliteJobs) -> None:
    store.put("j", 0, lines("a", "b"), False)
    assert store.put("j", 0, lines("a", "b"), False) == 2
    assert store.put("j", 1, lines("b", "c"), False) == 3
    assert store.put("j", 7, lines("z"), False) == 3
    assert store.put("j", 3, [], True) == 3
    assert store.put("j", 3, [], True) == 3
    assert store.status("j").total == 3


def test_another_jobs_lines_under_the_same_name_are_refused(store: SqliteJobs) -> None:
    store.put("j", 0, lines("a"), True)
    for first, part in ((0, lines("x")), (1, lines("b"))):
        with pytest.raises(JobError, match="take a new name"):
            store.put("j", first, part, True)


def test_a_line_gets_one_result(store: SqliteJobs) -> None:
    store.put("j", 0, lines("a", "b"), True)
    (job,) = store.running()
    store.finish([Outcome(job, 1, b"first", ok=True, prompt_tokens=3, output_tokens=4)])
    store.finish([Outcome(job, 1, b"second", ok=True, prompt_tokens=3, output_tokens=4)])
    assert store.fetch("j", 0)[1:] == ([b"first"], 1)
    assert store.status("j").output_tokens == 4
    store.finish([Outcome(job, 0, b"other", ok=False)])
    status, results, after = store.fetch("j", 1)
    assert (results, after) == ([b"other"], 2)
    assert (status.state, status.completed, status.failed) == ("completed", 1, 1)
    assert store.running() == []


def test_duplicates_are_known_by_their_custom_id(store: SqliteJobs) -> None:
    store.put("j", 0, [*lines("a", "b", "a"), b"{broken", b"{broken"], True)
    (job,) = store.running()
    found = [line.is_duplicate for line in store.pending(job, -1, 10)]
    assert found == [False, False, True, False, False]


def test_a_cancelled_job_takes_no_more_results(store: SqliteJobs) -> None:
    store.put("j", 0, lines("a", "b"), True)
    (job,) = store.running()
    store.finish([Outcome(job, 0, b"done", ok=True)])
    assert store.cancel("j") == job
    assert store.status("j").state == "cancelling"
    store.finish([Outcome(job, 1, b"late", ok=True)])
    assert store.fetch("j", 0)[1] == [b"done"]
    assert store.pending(job, -1, 10) == []
    store.end_cancelled(job)
    assert store.status("j").state == "cancelled"


def test_a_job_that_is_none_is_told(store: SqliteJobs) -> None:
    with pytest.raises(JobError, match="there is no job nope"):
        store.fetch("nope", 0)


def test_jobs_are_listed_newest_first(store: SqliteJobs) -> None:
    for name in ("a", "b"):
        store.put(name, 0, lines("x"), True)
    assert [status.job for status in store.statuses()] == ["b", "a"]


def test_what_was_acknowledged_outlives_a_kill(tmp_path: Path) -> None:
    code = (
        "import os, sys, pathlib; from bros.brosd.tokenizer.jobs.job import Outcome;"
        "from bros.brosd.tokenizer.jobs.sqlite.jobs import SqliteJobs;"
        "from bros.brosd.tokenizer.jobs.sqlite.database import open_database;"
        "store = SqliteJobs(open_database(pathlib.Path(sys.argv[1])));"
        'store.put(\'j\', 0, [b\'{"custom_id": "a"}\', b\'{"custom_id": "b"}\'], True);'
        "store.finish([Outcome(store.running()[0], 1, b'done', ok=True)]);"
        "os.kill(os.getpid(), 9)"
    )
    path = tmp_path / "jobs.sqlite3"
    died = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert died.returncode == -signal.SIGKILL
    store = SqliteJobs(open_database(path))
    (job,) = store.running()
    assert [line.number for line in store.pending(job, -1, 10)] == [0]
    assert store.fetch("j", 0)[1] == [b"done"]


def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    (tmp_path / "jobs.sqlite3").write_bytes(os.urandom(8192))
    with pytest.raises(UnusableStoreError, match=r"jobs\.sqlite3 cannot be used"):
        SqliteJobs(open_database(tmp_path / "jobs.sqlite3"))


class JobMachine(RuleBasedStateMachine):
    """One job of six lines under random events, against a dictionary."""

    @initialize()
    def start(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.db = Path(self.folder.name) / "jobs.sqlite3"
        self.store = SqliteJobs(open_database(self.db))
        self.store.put("j", 0, lines(*"abcdef"), True)
        self.results: dict[int, bytes] = {}

    def teardown(self) -> None:
        self.store._db.close()
        self.folder.cleanup()

    @rule(number=st.integers(0, 5), result=st.binary(min_size=1, max_size=4), ok=st.booleans())
    def finish(self, number: int, result: bytes, ok: bool) -> None:
        self.store.finish([Outcome(1, number, result, ok)])
        self.results.setdefault(number, result)

    @rule()
    def reopen(self) -> None:
        self.store._db.close()
        self.store = SqliteJobs(open_database(self.db))

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "store"):
            return
        status, results, after = self.store.fetch("j", 0)
        assert results == list(self.results.values())
        assert after == len(results) == status.completed + status.failed
        pending = {line.number for line in self.store.pending(1, -1, 10)}
        assert pending == set(range(6)) - set(self.results)
        assert status.state == ("in_progress" if pending else "completed")


TestJobMachine = JobMachine.TestCase
TestJobMachine.settings = settings(max_examples=30, stateful_step_count=15, deadline=None)
