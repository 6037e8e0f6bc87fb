"""`bros doctor`: find what may keep BROS from working here, and say what to do about it."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import socket
import sqlite3
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from bros.brosd.client.client import ClientError, NotRunning
from bros.brosd.config import Config
from bros.brosd.lifecycle import KeyFileError, check_keys
from bros.cli.render import print_json
from bros.cli.target import Target

GIB = 2**30
MODEL_BYTES = GIB  # the default model and its kernels, with room to spare
OPEN_FILES = 4096
MARKS = {"ok": "ok", "warning": "warning", "error": "ERROR"}


@dataclass(frozen=True)
class Finding:
    """The result of one check; `level` is ok, warning or error."""

    level: str
    subject: str
    text: str


def doctor(target: Target, *, json: bool) -> int:
    """Check everything and print it. Return 1 if something is wrong, else 0."""
    config = target.load()
    findings = [finding for check in CHECKS for finding in check(config)]
    findings += _daemon(target, config)
    if json:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            print(f"{MARKS[finding.level]:8} {finding.subject:12} {finding.text}")
    return int(any(finding.level == "error" for finding in findings))


def _packages(config: Config) -> Iterator[Finding]:
    python = ".".join(map(str, sys.version_info[:3]))
    yield Finding("ok", "python", f"{python} in {sys.prefix}")
    for name in ("torch", "transformers", "pyzmq", "numba", "llguidance"):
        try:
            yield Finding("ok", name, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Finding("error", name, "is not installed: pip install . again")


def _machine(config: Config) -> Iterator[Finding]:
    yield Finding("ok", "cores", str(len(os.sched_getaffinity(0))))
    available = _available_bytes()
    wanted = config.kv.pool_bytes + config.kv.host_bytes
    level = "ok" if available > wanted else "warning"
    text = f"{available / GIB:.1f} GiB available, {wanted / GIB:.1f} GiB for the KV cache"
    hint = "" if level == "ok" else ": lower kv.pool_bytes or kv.host_bytes"
    yield Finding(level, "memory", text + hint)
    gpus = sorted(Path("/dev").glob("nvidia[0-9]*"))
    yield Finding("ok", "gpus", ", ".join(gpu.name for gpu in gpus) or "none: the CPU serves")


def _available_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def _folders(config: Config) -> Iterator[Finding]:
    for subject, folder in (("state", config.state), ("cache", config.cache)):
        place = next(parent for parent in (folder, *folder.parents) if parent.exists())
        if not os.access(place, os.W_OK):
            yield Finding("error", subject, f"{folder} cannot be written by this user")
            continue
        if subject == "state" and _is_open(folder):
            yield Finding("error", "state", f"{folder} is open to others: chmod 700 {folder}")
            continue
        free = shutil.disk_usage(place).free
        low = free < (config.batch.min_free_bytes if subject == "state" else MODEL_BYTES)
        text = f"{folder}, {free / GIB:.1f} GiB free"
        yield Finding("error" if low else "ok", subject, text + (": free some" if low else ""))
    runtime = config.runtime
    if _is_open(runtime):
        yield Finding("error", "runtime", f"{runtime} is open to others: chmod 700 {runtime}")
    else:
        yield Finding("ok", "runtime", str(runtime))


def _is_open(folder: Path) -> bool:
    """Whether others may look into a folder."""
    return folder.exists() and bool(stat.S_IMODE(folder.stat().st_mode) & 0o077)


def _jobs(config: Config) -> Iterator[Finding]:
    path = config.state / "jobs.sqlite3"
    if not path.exists():
        yield Finding("ok", "jobs", "none so far")
        return
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as db:
            (damage,) = db.execute("PRAGMA quick_check(1)").fetchone()
            (jobs,) = db.execute("SELECT count(*) FROM jobs").fetchone()
    except sqlite3.Error as error:
        damage, jobs = str(error), 0
    if damage == "ok":
        yield Finding("ok", "jobs", f"{jobs} in {path}, whose file is sound")
    else:
        yield Finding("error", "jobs", f"{path} is damaged ({damage}): restore it from a backup")


def _keys(config: Config) -> Iterator[Finding]:
    try:
        check_keys(config)
    except KeyFileError as error:
        yield Finding("error", "keys", str(error))
    else:
        yield Finding("ok", "keys", f"fit for server.host = {config.server.host}")


def _system(config: Config) -> Iterator[Finding]:
    import resource

    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files < OPEN_FILES:
        text = f"{files}; each stream takes one: ulimit -n {OPEN_FILES}"
        yield Finding("warning", "open files", text)
    else:
        yield Finding("ok", "open files", str(files))


CHECKS: tuple[Callable[[Config], Iterator[Finding]], ...] = (
    _packages,
    _machine,
    _folders,
    _jobs,
    _keys,
    _system,
)


def _daemon(target: Target, config: Config) -> list[Finding]:
    """Check whether a daemon runs, and if none does, whether its port is free."""
    try:
        with target.connect() as client:
            stats = client.status()
    except NotRunning:
        return [Finding("ok", "daemon", "does not run: brosd start"), _port(config)]
    except ClientError as error:
        return [Finding("error", "daemon", str(error))]
    state = stats.state if stats else "starting"
    restarts = stats.worker_restarts + stats.tokenizer_restarts if stats else 0
    level = "warning" if restarts else "ok"
    return [Finding(level, "daemon", f"{state}, {restarts} restarts of its processes")]


def _port(config: Config) -> Finding:
    address = f"{config.server.host} port {config.server.port}"
    try:
        socket.create_server((config.server.host, config.server.port)).close()
    except OSError as error:
        text = f"{address}: {error.strerror}: choose another with --set server.port=8001"
        return Finding("error", "port", text)
    return Finding("ok", "port", f"{address} is free")
