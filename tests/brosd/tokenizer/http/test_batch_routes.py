"""`/v1/files` and `/v1/batches` through OpenAI's client, with the test in the daemon's place."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from bros.brosd.protocol import wire
from bros.brosd.tokenizer.jobs.sqlite.database import FIRST, open_database
from bros.brosd.tokenizer.jobs.sqlite.jobs import SqliteJobs
from fake_daemon import TEXT, Daemon, batch_line
from harness import wait_until


def jsonl(*numbers: int) -> bytes:
    return b"".join(batch_line(number) + b"\n" for number in numbers)


@pytest.fixture(scope="module")
def daemon(model_dir: Path) -> Iterator[Daemon]:
    daemon = Daemon.in_scratch(model_dir, "batch.max_file_bytes=1048576")
    yield daemon
    daemon.close()


@pytest.fixture
def client(daemon: Daemon) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="none", max_retries=0)


def submit(client: openai.OpenAI, content: bytes, window: str = "24h") -> openai.types.Batch:
    file = client.files.create(file=("in.jsonl", content), purpose="batch")
    return client.batches.create(
        input_file_id=file.id,
        endpoint="/v1/chat/completions",
        completion_window=window,  # type: ignore[arg-type]
        metadata={"team": "night"},
    )


def state_of(client: openai.OpenAI, batch: openai.types.Batch, *states: str) -> openai.types.Batch:
    wait_until(lambda: client.batches.retrieve(batch.id).status in states)
    return client.batches.retrieve(batch.id)


def test_a_batch_from_its_upload_to_its_files(daemon: Daemon, client: openai.OpenAI) -> None:
    other = b'{"custom_id": "x", "method": "POST", "url": "/v1/completions", "body": {}}\n'
    batch = submit(client, jsonl(0, 1) + other + b"\n\n" + jsonl(0) + b"{no json\n")
    assert batch.status == "validating"
    assert batch.expires_at is not None
    for _ in range(2):
        daemon.answer(daemon.recv_admit().rid, TEXT)
    done = state_of(client, batch, "completed")
    assert done.request_counts is not None
    assert done.request_counts.to_dict() == {"total": 5, "completed": 2, "failed": 3}
    assert done.metadata == {"team": "night"}
    assert done.usage is not None
    assert done.usage.output_tokens == 10
    assert done.output_file_id is not None
    assert done.error_file_id is not None
    good = [json.loads(line) for line in client.files.content(done.output_file_id).iter_lines()]
    assert {line["custom_id"] for line in good} == {"n0", "n1"}
    assert all(line["response"]["status_code"] == 200 for line in good)
    bad = [json.loads(line) for line in client.files.content(done.error_file_id).iter_lines()]
    codes = [(line["custom_id"], line["error"]["code"]) for line in bad]
    assert sorted(codes, key=str) == [
        ("n0", "duplicate_custom_id"),
        ("x", "mismatched_url"),
        (None, "invalid_json"),
    ]
    names = {file.id for file in client.files.list()}
    assert {done.input_file_id, done.output_file_id, done.error_file_id} <= names
    size = client.files.retrieve(done.output_file_id).bytes
    assert size == len(client.files.content(done.output_file_id).read())
    for name in (done.input_file_id, done.output_file_id):
        assert client.files.delete(name).deleted
        with pytest.raises(openai.NotFoundError):
            client.files.retrieve(name)


def test_lists_come_in_pages(client: openai.OpenAI) -> None:
    batches = [submit(client, b"x\n") for _ in range(5)]
    for batch in batches:
        state_of(client, batch, "completed")
    newest = [batch.id for batch in reversed(batches)]
    assert [batch.id for batch in client.batches.list(limit=2)][:5] == newest
    first = client.batches.list(limit=2)
    assert first.has_more
    assert [batch.id for batch in first.data] == newest[:2]
    files = [file.id for file in client.files.list(limit=3, order="asc")]
    assert len(files) == len(set(files)) == len(client.files.list().data)
    with pytest.raises(openai.BadRequestError, match="from 1 to 100"):
        client.batches.list(limit=1000)


def test_a_cancelled_batch_keeps_what_is_done(daemon: Daemon, client: openai.OpenAI) -> None:
    def completed() -> int:
        counts = client.batches.retrieve(batch.id).request_counts
        assert counts is not None
        return counts.completed

    batch = submit(client, jsonl(0, 1))
    admits = [daemon.recv_admit() for _ in range(2)]
    daemon.answer(admits[0].rid, TEXT)
    wait_until(lambda: completed() == 1)
    cancelled = client.batches.cancel(batch.id)
    assert daemon.recv() == wire.Abort(admits[1].rid)
    assert cancelled.status == "cancelled"
    assert cancelled.cancelling_at is not None
    assert cancelled.output_file_id is not None


def test_a_batch_whose_time_is_up(daemon: Daemon, client: openai.OpenAI) -> None:
    batch = submit(client, jsonl(0, 1), window="1s")
    admits = [daemon.recv_admit() for _ in range(2)]
    daemon.answer(admits[0].rid, TEXT)
    done = state_of(client, batch, "expired")
    assert daemon.recv() == wire.Abort(admits[1].rid)
    assert done.request_counts is not None
    assert (done.request_counts.completed, done.request_counts.failed) == (1, 1)
    assert done.error_file_id is not None
    (error,) = client.files.content(done.error_file_id).text.splitlines()
    assert json.loads(error)["error"]["code"] == "batch_expired"


def test_what_cannot_be_a_batch_is_refused(client: openai.OpenAI) -> None:
    failed = state_of(client, submit(client, b"\n\n"), "failed")
    assert failed.errors is not None
    assert failed.errors.data is not None
    assert failed.errors.data[0].code == "empty_file"
    with pytest.raises(openai.BadRequestError, match="completion_window"):
        submit(client, jsonl(0), window="soon")
    with pytest.raises(openai.NotFoundError, match="there is no file"):
        client.batches.create(
            input_file_id="file-nope",
            endpoint="/v1/completions",
            completion_window="24h",
        )
    with pytest.raises(openai.BadRequestError, match="purpose"):
        client.files.create(file=b"x", purpose="poetry")  # type: ignore[arg-type]
    with pytest.raises(openai.NotFoundError):
        client.batches.retrieve("nope")


def test_malformed_forms_are_refused(daemon: Daemon) -> None:
    url = f"{daemon.url}/v1/files"
    form = {"content-type": "multipart/form-data; boundary=x"}
    cut = b'--x\r\ncontent-disposition: form-data; name="file"; filename="f"\r\n\r\nabc'
    for headers, body in [
        ({}, b"plain"),
        ({"content-type": "multipart/form-data"}, b""),
        (form, b"no boundary"),
        (form, cut),
        (form, b'--x\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--x--'),
        (form, b'--x\r\ncontent-disposition: form-data; name="a"\r\n\r\n' + b"y" * 5000),
    ]:
        answer = httpx.post(url, content=body, headers=headers)
        assert answer.status_code == 400, (body, answer.text)
        assert answer.json()["error"]["message"]
    large = httpx.post(url, files={"file": b"x" * (2**20 + 1)}, data={"purpose": "batch"})
    assert large.status_code == 413
    assert not list((daemon.runtime / "files").glob("*.part"))


def test_an_upload_goes_on_after_a_kill(daemon: Daemon, client: openai.OpenAI) -> None:
    """Lines that were not read before the kill are read after it, and none is read twice."""
    batch = submit(client, jsonl(*range(1500)))
    daemon.kill()
    daemon.start()
    state_of(client, batch, "in_progress")
    counts = client.batches.retrieve(batch.id).request_counts
    assert counts is not None
    assert counts.total == 1500
    client.batches.cancel(batch.id)
    daemon.drain_inbox()


def test_a_full_disk_is_reported(daemon: Daemon, client: openai.OpenAI) -> None:
    """What there is no room for is refused; what was accepted goes on."""
    batch = submit(client, jsonl(0))
    admit = daemon.recv_admit()
    daemon.restart("batch.min_free_bytes=9000000000000000")
    with pytest.raises(openai.InternalServerError, match="free some space") as caught:
        submit(client, jsonl(1))
    assert caught.value.status_code == 507
    again = daemon.recv_admit()
    assert again.rid != admit.rid
    daemon.answer(again.rid, TEXT)
    assert state_of(client, batch, "completed").output_file_id is not None


def test_a_first_version_file_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite3"
    old = sqlite3.connect(path)
    old.executescript(f"{FIRST} PRAGMA user_version = 1;")
    old.execute("INSERT INTO jobs VALUES (1, 'j', 'completed', 1.0, 2, 1, 1, 3, 4)")
    for number, status in enumerate((200, 400)):
        result = json.dumps({"response": {"status_code": status}}).encode()
        row = (1, number, batch_line(number), f"n{number}", number + 1, result)
        old.execute("INSERT INTO lines VALUES (?, ?, ?, ?, ?, ?)", row)
    old.commit()
    old.close()
    job = SqliteJobs(open_database(path)).job("j")
    assert (job.state, job.output_bytes, job.error_bytes) == ("completed", 35, 35)
