"""The worker process from its first message to its last: load, attach, then plan after plan."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bros.brosd.config import Config
from bros.brosd.link import BlockingInbox, BlockingOutbox
from bros.brosd.wire import (
    Attach,
    Fault,
    Geometry,
    Hello,
    Ready,
    StepDone,
    StepPlan,
    Stop,
    ToDaemon,
    ToWorker,
    pack_ids,
)
from bros.kv import BlockTableView
from bros.workers.profile import profile

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Identity:
    """Which worker this is, and which incarnation of it."""

    index: int
    generation: int

    @property
    def peer(self) -> str:
        return f"worker-{self.index}"


class Worker:
    """One device's process. `run` returns an exit status."""

    def __init__(self, config: Config, model: Path, identity: Identity) -> None:
        self._config = config
        self._model = model
        self._identity = identity
        path = config.runtime / f"{identity.peer}.{identity.generation}.sock"
        self._inbox: BlockingInbox[ToWorker] = BlockingInbox(path, ToWorker)
        self._outbox: BlockingOutbox[ToDaemon] = BlockingOutbox(config.runtime / "daemon.sock")

    def run(self) -> int:
        """Serve until told to stop; a failure is told to the daemon before the process ends."""
        self._outbox.send(Hello(self._identity.peer, self._identity.generation))
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

    def _fail(self, reason: str) -> int:
        reason = " ".join(reason.split())
        log.error("event=fault reason=%r", reason)
        self._outbox.send(Fault(self._identity.peer, self._identity.generation, reason))
        return 1

    def _serve(self) -> None:
        from bros.workers.executor import Executor  # seconds of imports, after Hello

        identity = self._identity
        executor = Executor(self._model, self._config)
        self._outbox.send(
            Geometry(
                worker=identity.index,
                generation=identity.generation,
                num_blocks=executor.num_blocks,
                block_size=self._config.kv.block_size,
                max_len=executor.max_len,
                vocab_size=executor.shape.vocab_size,
                kv_bytes_per_token=executor.kv_bytes_per_token,
            )
        )
        while True:
            match self._inbox.recv():
                case Attach(path=path):
                    executor.attach(BlockTableView(Path(path)))
                    executor.warm_up()
                    samples = profile(executor, self._model, self._config)
                    self._outbox.send(Ready(identity.peer, identity.generation, samples))
                case StepPlan() as plan:
                    began_s = time.monotonic()
                    copied = executor.copy(plan)
                    choice = executor.step(plan)
                    self._outbox.send(
                        StepDone(
                            worker=identity.index,
                            generation=identity.generation,
                            step=plan.step,
                            tokens=pack_ids(choice.tokens),
                            logprobs=choice.logprobs,
                            elapsed_s=time.monotonic() - began_s,
                            copy_s=copied.seconds,
                            copy_bytes=copied.num_bytes,
                        )
                    )
                case Stop():
                    return
