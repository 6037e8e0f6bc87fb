"""The disk fills up under a running tokenizer: the test limits the sizes of its files."""

from __future__ import annotations

import asyncio
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from bros.brosd.client.client import ApiError, Client
from bros.brosd.config import BatchConfig
from bros.brosd.protocol import wire
from bros.brosd.tokenizer.jobs.errors import UnusableStoreError
from bros.brosd.tokenizer.jobs.sqlite.database import open_database
from bros.brosd.tokenizer.jobs.sqlite.jobs import SqliteJobs
from bros.brosd.tokenizer.jobs.sqlite.store import SqliteStore
from fake_daemon import TEXT, Daemon, batch_line
from harness import wait_until

ROOM_BYTES = (0, 4096, 16_384, 65_536)
UNLIMITED = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)


@pytest.fixture
def daemon(model_dir: Path) -> Iterator[Daemon]:
    daemon = Daemon.in_scratch(model_dir)
    yield daemon
    daemon.close()


def test_a_full_disk_loses_nothing(daemon: Daemon) -> None:
    """Results wait for room, and new work is refused with a reason, until there is room again."""
    pid = daemon.process.pid
    with Client(daemon.runtime) as client:
        client.put_job("accepted", [batch_line(index) for index in range(20)])
        admits = [daemon.recv_admit() for _ in range(20)]
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (1024, resource.RLIM_INFINITY))
        for admit in admits:
            daemon.answer(admit.rid, TEXT)
        with pytest.raises(ApiError, match=r"storage_failed|cannot be stored|full"):
            client.put_job("refused", [batch_line(index) for index in range(2000)])
        openai_client = openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="-", max_retries=0)
        with pytest.raises(openai.InternalServerError, match="cannot be stored") as caught:
            openai_client.files.create(file=b"x" * 100_000, purpose="batch")
        assert caught.value.status_code == 507
        assert client.fetch("accepted").status.completed == 0
        resource.prlimit(pid, resource.RLIMIT_FSIZE, UNLIMITED)
        wait_until(lambda: client.fetch("accepted").status.state == "completed")
    daemon.outbox.send(wire.Stop())
    assert daemon.process.wait(timeout=30) == 0
    store = SqliteJobs(open_database(daemon.runtime / "jobs.sqlite3"))
    assert len(store.fetch("accepted", 0)[1]) == 20
    assert not list((daemon.runtime / "files").iterdir())


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 128 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k,mode=700", "none", str(folder)]
    if subprocess.run(mount, check=False).returncode != 0:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("room_bytes", ROOM_BYTES)
def test_a_start_on_a_full_disk_says_what_to_do(tiny_disk: Path, room_bytes: int) -> None:
    (tiny_disk / "filler").write_bytes(b"x" * (2**17 - room_bytes))
    with pytest.raises(UnusableStoreError, match="free some space there") as caught:
        asyncio.run(SqliteStore.open(tiny_disk, BatchConfig()))
    assert f"cannot write in {tiny_disk}" in str(caught.value)
    assert "--set state_dir=" in str(caught.value)
