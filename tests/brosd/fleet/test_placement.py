"""Requests go where they are done first: by what is booked, and by the prefix that is there."""

from pathlib import Path

import pytest

from bros.brosd.fleet.placement import Placement, WorkerLoad
from bros.brosd.protocol.wire import Admit, Sampling, pack_ids
from bros.brosd.scheduling.limits import Limits
from bros.brosd.scheduling.registry import POLICIES
from bros.brosd.scheduling.request import Request
from bros.brosd.scheduling.scheduler import Scheduler
from bros.kv import Allocator, BlockTable, Klass, TableGeometry

BLOCK = 4
LONG = list(range(40))


def place(path: Path) -> WorkerLoad:
    """A worker that serves, with an empty pool."""
    scheduler = Scheduler(POLICIES["bros"](), Limits(8, 256, 100))
    table = BlockTable(path, TableGeometry(64, BLOCK, 16, 200))
    scheduler.attach(Allocator(table), 200)
    return WorkerLoad(scheduler, up=True)


@pytest.fixture
def places(tmp_path: Path) -> list[WorkerLoad]:
    return [place(tmp_path / str(index)) for index in range(3)]


def request(rid: int, klass: Klass, prompt: list[int], max_tokens: int = 8) -> Request:
    return Request.of(Admit(rid, klass, rid * 1e-3, pack_ids(prompt), max_tokens, Sampling()))


def put(placement: Placement, new: Request) -> WorkerLoad:
    best = placement.candidates(new)[0]
    assert best.scheduler.enqueue(new) is None
    placement.book(best, new)
    return best


def test_requests_spread_and_long_ones_count_more(places: list[WorkerLoad]) -> None:
    placement = Placement(places)
    assert put(placement, request(0, Klass.BE, LONG * 4, 100)) is places[0]
    short = [put(placement, request(rid, Klass.BE, [rid], 4)) for rid in range(1, 9)]
    assert short.count(places[1]) == short.count(places[2]) == 4
    for rid in range(9):
        placement.release(rid)
    assert all(sum(each.load_s.values()) == 0 for each in places)


def test_best_effort_hardly_counts_for_real_time(places: list[WorkerLoad]) -> None:
    placement = Placement(places[:2])
    put(placement, request(0, Klass.BE, LONG, 60))
    put(placement, request(1, Klass.RT, LONG, 30))
    assert put(placement, request(2, Klass.RT, LONG, 30)) is places[0]
    assert put(placement, request(3, Klass.BE, LONG, 30)) is places[1]


def test_a_prefix_is_worth_its_prefill(places: list[WorkerLoad]) -> None:
    """The worker that has the prefix wins until it has that much more to do."""
    placement = Placement(places[1:])
    first = request(0, Klass.RT, LONG, 1)
    here = places[2]
    here.scheduler.enqueue(first)
    plan = here.scheduler.plan()
    assert plan is not None
    here.scheduler.complete(plan.step, [1])
    same = [put(placement, request(rid, Klass.RT, LONG, 8)) for rid in range(1, 7)]
    assert same[0] is here
    assert places[1] in same
    assert same.count(here) > same.count(places[1])


def test_who_serves_comes_before_who_starts_and_the_lost_never(places: list[WorkerLoad]) -> None:
    placement = Placement(places)
    places[0].up = False
    places[1].lost = True
    assert placement.candidates(request(0, Klass.RT, [1])) == [places[2]]
    places[2].up = False
    assert placement.candidates(request(0, Klass.RT, [1])) == [places[0], places[2]]


def test_what_is_typical_is_learnt(places: list[WorkerLoad]) -> None:
    placement = Placement(places)
    before_s = placement._own_s(places[0], request(0, Klass.BE, [1], 1000))
    for rid in range(1, 100):
        done = request(rid, Klass.BE, [1], 1000)
        placement.book(places[0], done)
        done.tokens.extend([7] * 400)
        placement.finish([rid])
    assert placement._own_s(places[0], request(0, Klass.BE, [1], 1000)) > 3 * before_s


def test_requests_of_a_lost_worker_keep_their_order(places: list[WorkerLoad]) -> None:
    old, new = (request(rid, Klass.BE, [rid]) for rid in (1, 5))
    places[0].scheduler.enqueue(old)
    places[1].scheduler.enqueue(new)
    places[1].scheduler.adopt(places[0].scheduler.hand_over())
    assert list(places[1].scheduler.waiting[Klass.BE]) == [old, new]
    assert places[0].scheduler.idle
    plan = places[1].scheduler.plan()
    assert plan is not None
    assert len(plan.new_rows) == 2
