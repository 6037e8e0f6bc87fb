"""All workers of a daemon: each request is on one of them, and moves if that one dies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from bros.brosd.config import Config
from bros.brosd.fleet.devices import DeviceGroup
from bros.brosd.fleet.placement import Placement
from bros.brosd.fleet.supervisor import Child, Supervisor
from bros.brosd.fleet.worker_handle import WorkerHandle
from bros.brosd.protocol import wire
from bros.brosd.scheduling.latency import Latencies
from bros.brosd.scheduling.request import Request


class Fleet:
    """One worker for each group of devices."""

    def __init__(
        self, config: Config, supervisor: Supervisor, model: Path, groups: Sequence[DeviceGroup]
    ) -> None:
        self._workers = [
            WorkerHandle(config, supervisor, model, index, group)
            for index, group in enumerate(groups)
        ]
        self.latencies = Latencies()
        for worker in self._workers:
            worker.scheduler.latencies = self.latencies
        self._placement = Placement([worker.place for worker in self._workers])

    def __iter__(self) -> Iterator[WorkerHandle]:
        return iter(self._workers)

    def __getitem__(self, index: int) -> WorkerHandle:
        return self._workers[index]

    def find(self, child: Child) -> WorkerHandle | None:
        """Return the worker whose process that is, None if it is no worker's."""
        return next((worker for worker in self._workers if worker.child is child), None)

    # -- state -----------------------------------------------------------------------------------

    @property
    def all_up(self) -> bool:
        return all(worker.place.up for worker in self._workers)

    @property
    def any_up(self) -> bool:
        return any(worker.place.up for worker in self._workers)

    @property
    def idle(self) -> bool:
        """Whether no request is left."""
        return all(worker.scheduler.idle for worker in self._workers)

    @property
    def num_requests(self) -> int:
        """Requests that run or wait."""
        return sum(worker.scheduler.num_requests for worker in self._workers)

    def is_last(self, worker: WorkerHandle) -> bool:
        """Return whether all others have been given up."""
        return all(other.place.lost for other in self._workers if other is not worker)

    # -- requests --------------------------------------------------------------------------------

    def admit(self, admit: wire.Admit) -> wire.Fail | None:
        """Queue a request at the best worker that takes it, or return why none does."""
        request = Request.of(admit)
        fail = None
        for place in self._placement.candidates(request):
            fail = place.scheduler.enqueue(request)
            if fail is None:
                self._placement.book(place, request)
                return None
        return fail

    def abort(self, rid: int) -> None:
        """Forget a request. Idempotent."""
        if place := self._placement.place_of(rid):
            place.scheduler.abort(rid)
            self._placement.release(rid)

    def abort_all(self) -> None:
        """Forget every request."""
        for worker in self._workers:
            worker.scheduler.abort_all()
        self._placement.clear()

    def complete(self, done: wire.StepDone) -> list[wire.Emit | wire.Fail]:
        """An iteration is over: take its tokens; return what their requests get."""
        messages = self._workers[done.worker].complete(done)
        for message in messages:
            if isinstance(message, wire.Fail):
                self._placement.release(message.rid)
                continue
            ends = zip(message.rids, message.finish, strict=True)
            self._placement.finish(rid for rid, why in ends if why is not wire.FinishReason.NONE)
        return messages

    def lose(self, worker: WorkerHandle, *, for_good: bool) -> list[wire.Fail]:
        """A worker's process is gone. Its requests go where they will finish soonest now.

        Return those that are given up.
        """
        fails = worker.lose(for_good=for_good)
        for fail in fails:
            self._placement.release(fail.rid)
        for request in worker.scheduler.hand_over():
            self._placement.release(request.rid)
            place = self._placement.candidates(request)[0]
            place.scheduler.adopt([request])
            self._placement.book(place, request)
        return fails
