"""Which children count as dead, and what becomes of those that cannot even be started."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass

import pytest

from bros.brosd.config import SupervisorConfig
from bros.brosd.fleet import supervisor as module
from bros.brosd.fleet.supervisor import NOT_STARTED, Child, Exited, Supervisor

LIMITS = SupervisorConfig(hang_timeout_s=3.0, start_timeout_s=100.0, max_restarts=2)


@dataclass
class Clock:
    now_s: float = 1000.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def child() -> Child:
    return Child("worker-0", "bros.workers", [])


def adopt(child: Child, clock: Clock) -> Supervisor:
    """A supervisor that has just started the child."""
    supervisor = Supervisor(LIMITS, lambda end: None)
    supervisor.children[child.peer] = child
    child.started_s = clock.now_s
    return supervisor


def pass_time(supervisor: Supervisor, clock: Clock, seconds: int) -> None:
    for _ in range(seconds):
        clock.now_s += 1.0
        supervisor.kill_hung()


def test_a_child_that_falls_silent_is_killed(child: Child, clock: Clock) -> None:
    supervisor = adopt(child, clock)
    supervisor.note_beat(child)
    pass_time(supervisor, clock, 3)
    assert child.reason == ""
    pass_time(supervisor, clock, 1)
    assert child.reason == "silent for 4 s, 4 s after its start"


def test_before_its_first_words_a_child_has_the_time_of_a_start(child: Child, clock: Clock) -> None:
    """Python takes seconds to import on a busy machine, and only then does the heart beat."""
    supervisor = adopt(child, clock)
    pass_time(supervisor, clock, 100)
    assert child.reason == ""
    pass_time(supervisor, clock, 1)
    assert "101 s after its start" in child.reason


def test_who_slept_himself_blames_nobody(child: Child, clock: Clock) -> None:
    supervisor = adopt(child, clock)
    supervisor.note_beat(child)
    clock.now_s += 50.0
    supervisor.kill_hung()
    assert child.reason == ""


def test_restarts_are_counted(child: Child, clock: Clock) -> None:
    supervisor = adopt(child, clock)
    assert not supervisor.may_restart(child)  # it was never ready
    supervisor.note_ready(child)
    assert supervisor.may_restart(child)
    assert not supervisor.may_restart(child)
    clock.now_s += LIMITS.restart_window_s + 1
    assert supervisor.may_restart(child)


def test_a_child_that_cannot_be_started_has_ended(
    child: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    monkeypatch.setattr(module, "NOT_STARTED_PAUSE_S", 0.0)

    async def start() -> Exited:
        ends: asyncio.Queue[Exited] = asyncio.Queue()
        supervisor = Supervisor(LIMITS, ends.put_nowait)
        await supervisor.start(child)
        return await ends.get()

    assert asyncio.run(start()) == Exited(child.peer, 1, NOT_STARTED)
    assert child.reason == "cannot be started: No such file or directory"
