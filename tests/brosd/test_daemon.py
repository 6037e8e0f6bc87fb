"""A bug in the handling of one event ends neither the daemon nor anybody's request."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from bros.brosd.config import load
from bros.brosd.daemon import Daemon, DaemonError
from bros.brosd.events import Event, Tick
from bros.brosd.fleet.devices import DeviceGroup
from bros.brosd.protocol import wire
from bros.kv import Klass


def make_daemon(folder: Path) -> Daemon:
    """A daemon of two workers that have not been started."""
    config = load(overrides=[f"runtime_dir={folder}", f"state_dir={folder}"], environ={})
    return Daemon(config, folder, [DeviceGroup("cpu", (0,))] * 2, lambda: config)


def handle(daemon: Daemon, *events: Event) -> wire.Stats:
    async def run() -> None:
        for event in events:
            await daemon._handle(event)

    asyncio.run(run())
    return daemon._stats()


def admit(rid: int, prompt: bytes) -> wire.Admit:
    return wire.Admit(rid, Klass.RT, 0.0, prompt, 4, wire.Sampling(), slo=wire.Slo(1.0, 1.0))


def test_a_message_that_makes_no_sense_is_counted(
    short_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    daemon = make_daemon(short_dir)
    stats = handle(daemon, admit(1, b"odd"), admit(2, wire.pack_ids([1, 2])), wire.Abort(7))
    assert stats.internal_errors == 1
    assert stats.rt.waiting == 1
    assert "event=internal_error in=Admit" in caplog.text
    assert "Traceback" in caplog.text


def test_words_of_a_worker_that_does_not_exist_are_left_out(short_dir: Path) -> None:
    done = wire.StepDone(99, 1, 1, b"", 0.1)
    geometry = wire.Geometry(99, 1, 1, 1, 1, 1, 1)
    assert handle(make_daemon(short_dir), done, geometry).internal_errors == 0


def test_a_bug_in_the_statistics_does_not_end_the_clock(
    short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = make_daemon(short_dir)
    with monkeypatch.context() as patch:
        patch.setattr(daemon._fleet.latencies, "stats", lambda klass: 1 // 0)
        patch.setattr(daemon, "_draining_since_s", 0.0)
        asyncio.run(daemon._handle(Tick()))
        assert daemon._stopped  # what the clock does after the statistics was done
    assert daemon._stats().internal_errors == 1


def test_a_plan_that_fails_holds_up_no_other_worker(
    short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = make_daemon(short_dir)
    planned = []
    monkeypatch.setattr(daemon._fleet[0].scheduler, "plan", lambda: 1 // 0)
    monkeypatch.setattr(daemon._fleet[1].scheduler, "plan", lambda: planned.append(1))
    asyncio.run(daemon._dispatch())
    assert planned == [1]
    assert daemon._stats().internal_errors == 1


def test_what_the_operator_must_mend_ends_the_daemon(short_dir: Path) -> None:
    daemon = make_daemon(short_dir)
    child = daemon._fleet[0].child
    daemon._supervisor.children[child.peer] = child
    with pytest.raises(DaemonError, match="reinstall"):
        handle(daemon, wire.Hello(child.peer, 0, wire.WIRE_VERSION + 1))
