"""A worker's processes from first message to last: load the model, attach, run plan after plan."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from bros.brosd.config import Config
from bros.brosd.protocol.runtime_folder import daemon_socket
from bros.brosd.protocol.sockets import BlockingInbox, BlockingOutbox
from bros.brosd.protocol.wire import (
    Attach,
    Fault,
    Geometry,
    Hello,
    Ready,
    StepDone,
    StepPlan,
    Stop,
    ToDaemon,
    ToFollower,
    ToWorker,
    pack_ids,
)
from bros.workers.identity import Identity

if TYPE_CHECKING:
    from bros.workers.executor.executor import Executor
    from bros.workers.team import Leader

log = logging.getLogger(__name__)


class RankProcess:
    """One process of a worker, which has one for each rank that shares its model.

    If it fails, it tells the daemon why before it ends.
    """

    def __init__(self, config: Config, model: Path, identity: Identity) -> None:
        self._config = config
        self._model = model
        self._identity = identity
        self._outbox: BlockingOutbox[ToDaemon] = BlockingOutbox(daemon_socket(config.runtime))

    def run(self) -> int:
        """Serve until told to stop. Return the exit status."""
        try:
            self._serve()
        except (OSError, ValueError, MemoryError, msgspec.MsgspecError) as error:
            return self._fail(str(error) or type(error).__name__)
        except Exception as error:
            log.exception("event=crash")
            return self._fail(f"{type(error).__name__}: {error}")
        finally:
            self._outbox.close()
        return 0

    def _serve(self) -> None:
        raise NotImplementedError

    def _fail(self, reason: str) -> int:
        reason = " ".join(reason.split())
        log.error("event=fault reason=%r", reason)
        self._outbox.send(Fault(self._identity.peer, self._identity.generation, reason))
        return 1


class Follower(RankProcess):
    """A rank above 0: repeats what rank 0 does, at whose messages it waits."""

    def _serve(self) -> None:
        path = self._identity.socket_in(self._config.runtime)
        inbox: BlockingInbox[ToFollower] = BlockingInbox(path, ToFollower)
        from bros.workers.factory import make_executor
        from bros.workers.team import follow

        follow(make_executor(self._config, self._model, self._identity), inbox)


class Worker(RankProcess):
    """Rank 0, the process that the daemon knows. It starts the other ranks."""

    def __init__(self, config: Config, model: Path, identity: Identity) -> None:
        super().__init__(config, model, identity)
        self._inbox: BlockingInbox[ToWorker] = BlockingInbox(
            identity.socket_in(config.runtime), ToWorker
        )

    def _serve(self) -> None:
        identity = self._identity
        self._outbox.send(Hello(identity.peer, identity.generation))
        from bros.workers.factory import make_executor
        from bros.workers.profile import profile  # seconds of imports, after Hello
        from bros.workers.team import Leader, start_followers

        start_followers(self._config, self._model, identity)
        executor = make_executor(self._config, self._model, identity)
        team = Leader(executor, self._config, identity)
        self._outbox.send(self._geometry(executor))
        while True:
            match self._inbox.recv():
                case Attach(path=path):
                    team.attach(Path(path))
                    team.warm_up()
                    samples = profile(team, self._model, self._config)
                    self._outbox.send(Ready(identity.peer, identity.generation, samples))
                case StepPlan() as plan:
                    self._outbox.send(self._step(team, plan))
                case Stop():
                    team.stop()
                    return

    def _geometry(self, executor: Executor) -> Geometry:
        return Geometry(
            worker=self._identity.index,
            generation=self._identity.generation,
            num_blocks=executor.num_blocks,
            block_size=self._config.kv.block_size,
            max_len=executor.max_len,
            vocab_size=executor.vocab_size,
            kv_bytes_per_token=executor.kv_bytes_per_token,
        )

    def _step(self, team: Leader, plan: StepPlan) -> StepDone:
        began_s = time.monotonic()
        team.copy(plan)
        choice = team.step(plan)
        copied = team.copied()
        return StepDone(
            worker=self._identity.index,
            generation=self._identity.generation,
            step=plan.step,
            tokens=pack_ids(choice.tokens),
            logprobs=choice.logprobs,
            failed=choice.failed,
            elapsed_s=time.monotonic() - began_s,
            copy_s=copied.seconds,
            copy_bytes=copied.num_bytes,
        )
