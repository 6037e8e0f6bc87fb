"""What lies in the runtime folder of a daemon: the name of every file, in one place."""

from __future__ import annotations

import re
from pathlib import Path

TOKENIZER = "tokenizer"

_SOCKET = r"(daemon|client|(tokenizer|worker-\d+)\.\d+(\.r\d+)?)\.sock"
_FILE = r"client\.closed|worker-\d+\.\d+\.store|table-\d+\.\d+\.kv|config\.json"
_OURS = re.compile(f"{_SOCKET}|{_FILE}")


def worker_name(index: int) -> str:
    """What messages and logs call worker `index`."""
    return f"worker-{index}"


def daemon_socket(runtime: Path) -> Path:
    """The daemon's inbox."""
    return runtime / "daemon.sock"


def client_socket(runtime: Path) -> Path:
    """Where the tokenizer serves local clients."""
    return runtime / "client.sock"


def closed_door(socket: Path) -> Path:
    """Where a socket lies while nobody shall connect to it."""
    return socket.with_suffix(".closed")


def inbox_socket(runtime: Path, peer: str, generation: int, rank: int = 0) -> Path:
    """The inbox of one incarnation of a child, or of a follower of a worker's first process."""
    follower = f".r{rank}" if rank else ""
    return runtime / f"{peer}.{generation}{follower}.sock"


def rendezvous_file(runtime: Path, peer: str, generation: int) -> Path:
    """Where the processes of one worker find each other."""
    return runtime / f"{peer}.{generation}.store"


def table_file(runtime: Path, index: int, generation: int) -> Path:
    """The block table of one incarnation of worker `index`, until the worker has mapped it."""
    return runtime / f"table-{index}.{generation}.kv"


def config_file(runtime: Path) -> Path:
    """The configuration that the daemon's children read."""
    return runtime / "config.json"


def is_left_over(name: str) -> bool:
    """Whether a file of that name is a daemon's that has ended, and can be deleted."""
    return _OURS.fullmatch(name) is not None
