"""A worker of several processes that share one model: the first leads, the others follow.

Only the leader talks to the daemon and draws tokens. It passes on each message that makes all ranks
run the same forward; inside a forward they meet in collectives. If a follower ends, the leader ends
too, and the kernel ends the followers of a dead leader: the worker lives or dies as one.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from bros.brosd.config import Config
from bros.brosd.protocol.runtime_folder import daemon_socket
from bros.brosd.protocol.sockets import BlockingInbox, BlockingOutbox
from bros.brosd.protocol.wire import (
    Attach,
    Fault,
    Message,
    Rehearse,
    Sampled,
    StepPlan,
    Stop,
    ToDaemon,
    ToFollower,
    pack_ids,
    unpack_ids,
)
from bros.kv import BlockTableView
from bros.workers.executor.checkpoints import Copied
from bros.workers.executor.executor import Executor
from bros.workers.identity import Identity
from bros.workers.sampling.sampler import Choice

log = logging.getLogger(__name__)


class Leader:
    """Rank 0 of a worker: does what its own executor does, and has all followers do the same.

    With one rank there are no followers, and it only passes calls on.
    """

    def __init__(self, executor: Executor, config: Config, identity: Identity) -> None:
        self._executor = executor
        self._outboxes: list[BlockingOutbox[ToFollower]] = [
            BlockingOutbox(identity.of_rank(rank).socket_in(config.runtime))
            for rank in range(1, identity.size)
        ]

    @property
    def num_blocks(self) -> int:
        return self._executor.num_blocks

    @property
    def max_len(self) -> int:
        return self._executor.max_len

    def attach(self, path: Path) -> None:
        """Have all ranks allocate their pools for the block table at `path`."""
        self._tell(Attach(str(path)))
        self._executor.attach(BlockTableView(path))

    def warm_up(self) -> None:
        """Compile kernels on all ranks."""
        for starts, counts in self._executor.warm_up_shapes:
            self._tell(Rehearse(starts, counts))
        self._executor.warm_up()

    def rehearse(self, starts: list[int], counts: list[int]) -> None:
        """Run an iteration of rows that are made up on all ranks; see `Executor.rehearse`."""
        self._tell(Rehearse(starts, counts))
        self._executor.rehearse(starts, counts)

    def copy(self, plan: StepPlan) -> None:
        """Make this rank's copies of the plan; followers make theirs when they get the plan."""
        self._tell(plan)
        self._executor.copy(plan)

    def copied(self) -> Copied:
        """Return what the plan's copies took on this rank."""
        return self._executor.copied()

    def step(self, plan: StepPlan) -> Choice:
        """Run the plan's iteration, and tell the followers which tokens were drawn."""
        choice = self._executor.step(plan)
        if plan.rows:
            self._tell(Sampled(pack_ids(choice.tokens)))
        return choice

    def stop(self) -> None:
        """Have the followers end."""
        self._tell(Stop())
        for outbox in self._outboxes:
            outbox.close()

    def _tell(self, message: Message) -> None:
        for outbox in self._outboxes:
            outbox.send(message)


def follow(executor: Executor, inbox: BlockingInbox[ToFollower]) -> None:
    """Do what the leader does until it says stop."""
    while True:
        match inbox.recv():
            case Attach(path=path):
                executor.attach(BlockTableView(Path(path)))
            case Rehearse(starts=starts, counts=counts):
                executor.rehearse(starts, counts)
            case StepPlan() as plan:
                executor.copy(plan)
                executor.follow(plan)
            case Sampled(tokens=tokens):
                executor.append_tokens(unpack_ids(tokens).tolist())
            case Stop():
                return


def start_followers(config: Config, model: Path, identity: Identity) -> None:
    """Start the other ranks. This process ends if one of them ends before it should."""
    for rank in range(1, identity.size):
        command = [sys.executable, "-m", "bros.workers", "--runtime-dir", str(config.runtime)]
        command += ["--model", str(model), *identity.of_rank(rank).arguments]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        watch = threading.Thread(
            target=_end_with, args=(process, config, identity, rank), daemon=True
        )
        watch.start()


def _end_with(process: subprocess.Popen[bytes], config: Config, who: Identity, rank: int) -> None:
    status = process.wait()
    if status == 0:
        return  # it was told to end
    if status < 0:  # otherwise it has told the daemon why
        reason = f"rank {rank} was killed by {signal.Signals(-status).name}"
        outbox: BlockingOutbox[ToDaemon] = BlockingOutbox(daemon_socket(config.runtime))
        outbox.send(Fault(who.peer, who.generation, reason))
        outbox.close()
    log.error("event=rank_lost rank=%d status=%d", rank, status)
    os._exit(1)  # the main thread may be waiting for that rank in a collective
