"""`python -m bros.workers`: the worker process, as the daemon starts it."""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

from bros.brosd.config import Config, restore
from bros.brosd.protocol.child import die_with_parent, start_heartbeat
from bros.brosd.protocol.logs import setup_logging
from bros.brosd.protocol.runtime_folder import config_file
from bros.workers.identity import Identity
from bros.workers.version import compiled_folder


def set_threads(config: Config) -> None:
    """Set how many threads torch and Numba use, and how they wait.

    This works through the environment, before either is imported.
    """
    threads = config.worker.threads or len(os.sched_getaffinity(0))
    os.environ["OMP_NUM_THREADS"] = os.environ["NUMBA_NUM_THREADS"] = str(threads)
    # Threads that spin long at a barrier starve the thread that they wait for as soon as another
    # process wants a core: beside a second worker an iteration took 1,900 ms, not 60 (measured).
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    os.environ.setdefault("NUMBA_THREADING_LAYER_PRIORITY", "omp tbb workqueue")
    os.environ["NUMBA_CACHE_DIR"] = str(compiled_folder(config.cache))
    share_openmp()  # the library reads the environment when it is loaded


def share_openmp() -> None:
    """Have torch and Numba use one OpenMP library, and so the same threads.

    torch brings its own copy and Numba asks for the system's. If the system's is loaded first, it
    serves both. With two, threads of one spin while the other's work (measured: a fifth slower).
    """
    with suppress(OSError):
        ctypes.CDLL("libgomp.so.1", mode=ctypes.RTLD_GLOBAL)


def main() -> int:
    """Parse the daemon's arguments and run. Return the exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runtime-dir", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--index", type=int, required=True)
    parser.add_argument("--generation", type=int, required=True)
    parser.add_argument("--kind", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--devices", default="0")
    parser.add_argument("--rank", type=int, default=0)
    arguments = parser.parse_args()

    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the daemon, which then tells us
    config = restore(config_file(arguments.runtime_dir))
    set_threads(config)
    from bros.workers.process import Follower, Worker

    devices = tuple(int(device) for device in arguments.devices.split(","))
    identity = Identity(
        arguments.index, arguments.generation, arguments.kind, devices, arguments.rank
    )
    if identity.rank:
        setup_logging(config.log.level, f"{identity.peer}.{identity.rank}")
        return Follower(config, arguments.model, identity).run()
    setup_logging(config.log.level, identity.peer)
    start_heartbeat(config.runtime, identity.peer, identity.generation)
    return Worker(config, arguments.model, identity).run()


if __name__ == "__main__":
    sys.exit(main())
