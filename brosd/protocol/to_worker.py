"""Messages of the daemon to a worker, and of a worker's first process to its followers."""

from __future__ import annotations

import msgspec

from bros.brosd.protocol.base import Message, Part
from bros.brosd.protocol.sampling import Sampling


class Attach(Message, tag="attach"):
    """The block table of this worker is at `path`; allocate the pool and warm up."""

    path: str


class NewRow(Part):
    """A row that the worker has not seen: all its known token ids, the prompt's first."""

    row: int
    tokens: bytes
    num_prompt: int
    sampling: Sampling


class StepPlan(Message, tag="step"):
    """One iteration: row `rows[i]` computes its tokens `[starts[i], starts[i] + counts[i])`.

    A row whose chunk ends with its last known token samples the next one, which the worker
    appends to the row by itself. First of all, the worker runs the first `num_copies` entries
    of the block table's copy log.
    """

    step: int
    rows: bytes
    starts: bytes
    counts: bytes
    new_rows: list[NewRow] = msgspec.field(default_factory=list)
    num_copies: int = 0


class Stop(Message, tag="stop"):
    """Finish what is under way, and exit."""


class Rehearse(Message, tag="rehearse"):
    """Run an iteration of `counts` tokens after `starts`, of rows that are made up."""

    starts: list[int]
    counts: list[int]


class Sampled(Message, tag="sampled"):
    """The tokens of the last plan. Only the first process draws them."""

    tokens: bytes


ToWorker = Attach | StepPlan | Stop
ToFollower = Attach | Rehearse | StepPlan | Sampled | Stop
