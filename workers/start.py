"""Makes the executor of a worker process: on its device, with the other ranks if there are any."""

from __future__ import annotations

import logging
from pathlib import Path

from bros.brosd.config import Config
from bros.workers.executor import Executor
from bros.workers.identity import Identity
from bros.workers.parallel import Ranks, join

log = logging.getLogger(__name__)


def make_executor(config: Config, model: Path, identity: Identity) -> Executor:
    """The model is loaded; the pool is not made before `attach`."""
    ranks = Ranks(identity.rank, identity.size)
    store = config.runtime / f"{identity.peer}.{identity.generation}.store"
    join(ranks, store, identity.kind)
    return Executor(model, config, ranks)
