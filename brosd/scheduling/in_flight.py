"""The plan that a worker has: what was asked of it, and what its answer is for."""

from __future__ import annotations

from dataclasses import dataclass

from bros.brosd.protocol.wire import NewRow, StepPlan, pack_ids
from bros.brosd.scheduling.cost_model import IterationLoad
from bros.brosd.scheduling.packing import Chunk
from bros.brosd.scheduling.request import Request


@dataclass
class InFlightPlan:
    """Iteration number `step` of one worker."""

    step: int
    chunks: list[Chunk]
    num_copies: int
    load: IterationLoad

    @property
    def num_tokens(self) -> int:
        """Tokens that the iteration computes."""
        return sum(chunk.count for chunk in self.chunks)

    @property
    def requests(self) -> list[Request]:
        """Requests that are in it."""
        return [chunk.request for chunk in self.chunks]

    @property
    def sampling(self) -> list[Request]:
        """Requests that get a token from it, in the order of the worker's answer."""
        return [chunk.request for chunk in self.chunks if chunk.samples]

    def message(self) -> StepPlan:
        """Return what is sent to the worker, which then knows the requests' rows."""
        return StepPlan(
            step=self.step,
            rows=pack_ids([chunk.row for chunk in self.chunks]),
            starts=pack_ids([chunk.start for chunk in self.chunks]),
            counts=pack_ids([chunk.count for chunk in self.chunks]),
            num_copies=self.num_copies,
            new_rows=self._new_rows(),
        )

    def _new_rows(self) -> list[NewRow]:
        new_rows = []
        for chunk in self.chunks:
            if not chunk.request.known_to_worker:
                chunk.request.known_to_worker = True
                new_rows.append(chunk.request.new_row(chunk.row))
        return new_rows
