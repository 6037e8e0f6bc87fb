"""The worker process, driven through its sockets by a test that plays the daemon."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bros.brosd.config import load, save
from bros.brosd.protocol import wire
from bros.brosd.protocol.sockets import BlockingInbox, BlockingOutbox
from bros.kv import Allocator, BlockTable, Klass, TableGeometry, TokenChain

PROMPT = [504, 3575, 282, 4649, 314]


class Daemon:
    """The daemon's two sockets, and the worker that it started."""

    def __init__(self, runtime: Path, model: Path, cache: Path, *settings: str) -> None:
        self.runtime = runtime
        folders = [f"runtime_dir={runtime}", f"cache_dir={cache}", f"state_dir={runtime}"]
        save(load(overrides=[*folders, *settings], environ={}), runtime / "config.json")
        self.inbox: BlockingInbox[wire.ToDaemon] = BlockingInbox(
            runtime / "daemon.sock", wire.ToDaemon
        )
        command = [sys.executable, "-m", "bros.workers", "--runtime-dir", str(runtime)]
        command += ["--model", str(model), "--index", "0", "--generation", "7"]
        self.process = subprocess.Popen(command)
        self.outbox: BlockingOutbox[wire.ToWorker] = BlockingOutbox(runtime / "worker-0.7.sock")

    def recv(self) -> wire.ToDaemon:
        """Return the next message that is no heartbeat."""
        while True:
            message = self.inbox.recv()
            if not isinstance(message, wire.Heartbeat):
                return message


@pytest.fixture
def daemon(
    short_dir: Path, model_dir: Path, cache_dir: Path, request: pytest.FixtureRequest
) -> Iterator[Daemon]:
    daemon = Daemon(short_dir, model_dir, cache_dir, *getattr(request, "param", ()))
    yield daemon
    daemon.process.kill()
    daemon.process.wait()


@pytest.mark.parametrize("daemon", [("kv.num_blocks=16", "model.dtype=float32")], indirect=True)
def test_from_hello_to_stop(daemon: Daemon) -> None:
    assert daemon.recv() == wire.Hello("worker-0", 7)
    geometry = daemon.recv()
    assert isinstance(geometry, wire.Geometry)
    assert (geometry.num_blocks, geometry.block_size, geometry.max_len) == (16, 16, 256)
    assert geometry.kv_bytes_per_token == 2 * 30 * 3 * 64 * 4

    path = daemon.runtime / "table"
    allocator = Allocator(BlockTable(path, TableGeometry(16, 16, 4, 256)))
    daemon.outbox.send(wire.Attach(str(path)))
    ready = daemon.recv()
    assert isinstance(ready, wire.Ready)
    assert (ready.peer, ready.generation) == ("worker-0", 7)
    assert all(sample.seconds > 0 for sample in ready.profile)
    assert ready.profile

    row = allocator.open_row(Klass.BE, TokenChain([*PROMPT, 0, 0, 0], 16))
    allocator.grow(row, 3)
    new_row = wire.NewRow(row, wire.pack_ids(PROMPT), len(PROMPT), wire.Sampling(temperature=0.0))
    sampled = []
    for step, (start, count) in enumerate([(0, 3), (3, 2), (5, 1), (6, 1)]):
        allocator.grow(row, start + count)
        rows, starts, counts = (wire.pack_ids([number]) for number in (row, start, count))
        new_rows = [new_row] if step == 0 else []
        daemon.outbox.send(wire.StepPlan(step, rows, starts, counts, new_rows))
        done = daemon.recv()
        assert isinstance(done, wire.StepDone)
        assert (done.generation, done.step) == (7, step)
        sampled.append(wire.unpack_ids(done.tokens).tolist())
    assert [len(tokens) for tokens in sampled] == [0, 1, 1, 1]  # the prompt's first part has none

    daemon.outbox.send(wire.Stop())
    assert daemon.process.wait(timeout=30) == 0


@pytest.mark.parametrize("daemon", [("kv.num_blocks=16",)], indirect=True)
def test_a_table_of_another_layout_is_a_fault(daemon: Daemon) -> None:
    (daemon.runtime / "table").write_bytes(bytes(8192))
    daemon.outbox.send(wire.Attach(str(daemon.runtime / "table")))
    while not isinstance(message := daemon.recv(), wire.Fault):
        pass
    assert "not a BROS block table" in message.reason
    assert daemon.process.wait(timeout=30) == 1


def test_a_model_that_is_none_is_a_fault(short_dir: Path, cache_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    daemon = Daemon(short_dir, tmp_path, cache_dir)
    while not isinstance(message := daemon.recv(), wire.Fault):
        pass
    assert message.reason
    assert "\n" not in message.reason
    assert daemon.process.wait(timeout=30) == 1


def test_a_worker_ends_with_its_parent(short_dir: Path, model_dir: Path, cache_dir: Path) -> None:
    """The worker's parent, a process between it and the test, is killed."""
    config = load(
        overrides=[f"runtime_dir={short_dir}", f"cache_dir={cache_dir}"],
        environ={},
    )
    save(config, short_dir / "config.json")
    inbox: BlockingInbox[wire.ToDaemon] = BlockingInbox(short_dir / "daemon.sock", wire.ToDaemon)
    words = [sys.executable, "-m", "bros.workers", "--runtime-dir", str(short_dir)]
    words += ["--model", str(model_dir), "--index", "0", "--generation", "1"]
    code = f"import subprocess; p = subprocess.Popen({words!r}); print(p.pid, flush=True); p.wait()"
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    assert inbox.recv() == wire.Hello("worker-0", 1)
    parent.kill()
    parent.wait()
    handle = os.pidfd_open(worker) if Path(f"/proc/{worker}").exists() else None
    if handle is not None:
        import select

        assert select.select([handle], [], [], 10.0)[0], "the worker outlived its parent"
        os.close(handle)
