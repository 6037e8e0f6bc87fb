"""Speed and time left, from a job's statuses."""

from __future__ import annotations

import pytest

from bros.brosd.client.client import JobStatus
from bros.cli.batch.progress import Meter, note


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def status(done: int, failed: int = 0, total: int = 40) -> JobStatus:
    return JobStatus(
        job="j",
        state="in_progress",
        created_s=0,
        total=total,
        completed=done - failed,
        failed=failed,
        output_tokens=50 * done,
    )


def watch(meter: Meter, clock: Clock, *statuses: tuple[float, JobStatus]) -> None:
    for after_s, seen in statuses:
        clock.now_s += after_s
        meter.add(seen)


def test_a_new_job_is_measured_from_its_submission() -> None:
    clock = Clock()
    meter = Meter(True, clock)
    watch(meter, clock, (10, status(10)))
    assert meter.mean_tokens_per_s() == 50
    assert meter.left_s(40) == 30


def test_an_old_job_is_measured_from_where_it_was() -> None:
    clock = Clock()
    meter = Meter(False, clock)
    watch(meter, clock, (10, status(20)))
    assert (meter.mean_tokens_per_s(), meter.left_s(40)) == (None, None)
    watch(meter, clock, (5, status(30)))
    assert meter.mean_tokens_per_s() == 100
    assert meter.left_s(40) == 5


def test_the_speed_shown_is_that_of_the_last_seconds() -> None:
    clock = Clock()
    meter = Meter(True, clock)
    watch(meter, clock, (100, status(1)), (5, status(2)), (5, status(3)))
    assert meter.tokens_per_s() == 10
    assert meter.mean_tokens_per_s() == pytest.approx(150 / 110)


def test_notes() -> None:
    clock = Clock()
    meter = Meter(True, clock)
    meter.add(status(0))
    assert note(status(0), meter) == "0 failed, time left unknown"
    watch(meter, clock, (10, status(10, failed=2)))
    assert note(status(10, failed=2), meter) == "2 failed, 50 tokens/s, 0:30 left"
    watch(meter, clock, (30, status(40)))
    assert "left" not in note(status(40), meter)
