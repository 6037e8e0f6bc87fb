"""`python -m bros.brosd.tokenizer --runtime-dir DIR --generation G --model FOLDER`"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from pathlib import Path

import uvloop
import zmq

from bros.brosd import config as configuration
from bros.brosd.protocol.child import die_with_parent, start_heartbeat
from bros.brosd.protocol.logs import setup_logging
from bros.brosd.protocol.runtime_folder import TOKENIZER, config_file, daemon_socket
from bros.brosd.protocol.sockets import BlockingOutbox, encode, ipc, set_options
from bros.brosd.protocol.wire import Fault, Hello, ToDaemon
from bros.brosd.tokenizer.generation.codec import Codec, TextError
from bros.brosd.tokenizer.generation.traces import TracesError
from bros.brosd.tokenizer.http.server import ListenError
from bros.brosd.tokenizer.jobs.errors import UnusableStoreError
from bros.brosd.tokenizer.process import run

log = logging.getLogger(__name__)

LINGER_MS = 1000


def main() -> int:
    """Run until the daemon sends Stop. Return 1 and send a Fault if that is not possible."""
    parser = argparse.ArgumentParser(prog="python -m bros.brosd.tokenizer")
    parser.add_argument("--runtime-dir", type=Path, required=True)
    parser.add_argument("--generation", type=int, required=True)
    parser.add_argument("--model", type=Path, required=True)
    arguments = parser.parse_args()
    runtime, generation = arguments.runtime_dir, arguments.generation

    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the daemon, which drains first
    config = configuration.restore(config_file(runtime))
    setup_logging(config.log.level, TOKENIZER)
    start_heartbeat(runtime, TOKENIZER, generation)
    daemon: BlockingOutbox[ToDaemon] = BlockingOutbox(daemon_socket(runtime))
    daemon.send(Hello(TOKENIZER, generation))
    _hide_torch()
    try:
        uvloop.run(run(config, generation, Codec(arguments.model)))
    except Exception as error:
        reason = _reason(error)
        _send_last(daemon_socket(runtime), Fault(TOKENIZER, generation, reason))
        return 1
    return 0


def _hide_torch() -> None:
    """Keep transformers from importing torch: that doubles the time to start and takes 130 MB."""
    sys.modules["torch"] = None  # type: ignore[assignment]
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # or it warns that there is no torch
    os.environ["HF_HUB_OFFLINE"] = "1"


def _reason(error: Exception) -> str:
    """One line for the operator. The traceback of an unexpected error goes to the log."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, ListenError | UnusableStoreError | TextError | TracesError):
        return str(error)
    log.error("event=crashed", exc_info=error)
    return f"{type(error).__name__}: {error}"


def _send_last(path: Path, fault: Fault) -> None:
    """Send a message and wait until it is out. The context is its own, so that it can be ended."""
    with zmq.Context() as context, context.socket(zmq.PUSH) as socket:
        set_options(socket, LINGER_MS)
        socket.connect(ipc(path))
        socket.send(encode(fault))


if __name__ == "__main__":
    sys.exit(main())
