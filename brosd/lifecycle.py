"""From a configuration to a running daemon, in this process or detached, and back to none."""

from __future__ import annotations

import logging
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TextIO

import uvloop

from bros.brosd.api_keys import KeyFileError as KeyFileError
from bros.brosd.api_keys import Keys
from bros.brosd.api_keys import check_keys as check_keys
from bros.brosd.config import Config, save
from bros.brosd.config.folders import write_error
from bros.brosd.daemon import Daemon, DaemonError, ReadConfig
from bros.brosd.fleet.devices import DeviceError, find_groups, share_cores
from bros.brosd.locks import (
    InstanceError,
    instance,
    make_folder,
    make_folders,
    respawner_pid,
    running_pid,
)
from bros.brosd.protocol.logs import setup_logging
from bros.brosd.protocol.runtime_folder import config_file
from bros.brosd.systemd import environ_of_child, notify, num_restarts

log = logging.getLogger(__name__)

POLL_S = 0.1
KILL_AFTER_S = 15.0  # beyond the drain timeout


class ServeError(RuntimeError):
    """The daemon does not run, or does not stop; the text is one line that says why."""


def fetch_model(config: Config) -> Path:
    """Return the local folder of the configured model; fetch and convert it if it is not there.

    A process of its own does it, since it needs torch, which this one must never load.
    """
    command = [
        sys.executable,
        "-m",
        "bros.workers.models.fetch",
        config.model.name,
        str(config.cache),
    ]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, env=environ_of_child(), check=False
    )
    if done.returncode != 0:
        raise ServeError(f"model {config.model.name} cannot be had; the reason is above")
    return Path(done.stdout.strip())


def serve(config: Config, load: ReadConfig) -> None:
    """Run the daemon in this process until it is told to stop. Raise ServeError if it cannot.

    `load` reads the configuration again, for SIGHUP.
    """
    setup_logging(config.log.level, "brosd")
    os.umask(0o077)  # whatever we write is nobody else's to read
    raise_descriptor_limit()
    try:
        with instance(config):
            check_keys(config)
            groups = find_groups(config)
            model = fetch_model(config)

            def again() -> Config:
                return share_cores(load(), groups)

            shared = share_cores(config, groups)
            _save(shared)
            uvloop.run(Daemon(shared, model, groups, again, num_restarts()).run())
    except (DaemonError, DeviceError, InstanceError, KeyFileError, ServeError) as error:
        notify(f"STATUS=failed: {error}")
        raise ServeError(str(error)) from None


def _save(config: Config) -> None:
    """Write the configuration for the daemon's children."""
    try:
        save(config, config_file(config.runtime))
    except OSError as error:
        raise InstanceError(write_error(config.runtime, "runtime_dir", error)) from None


def raise_descriptor_limit() -> None:
    """Take as many file descriptors as we may have; each connection needs one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def serve_detached(config: Config, arguments: Sequence[str]) -> int:
    """Start `brosd start ARGUMENTS` in the background; return its process id when it is ready.

    A parent of its own starts it again when it ends unexpectedly. Raise ServeError with the
    daemon's own reason if it ends before it is ready.
    """
    try:
        make_folders(config)
        check_keys(config)
        if pid := running_pid(config.runtime):
            raise ServeError(f"a daemon is running already (process {pid}): see 'brosd status'")
        if pid := respawner_pid(config.runtime):
            raise ServeError(
                f"a daemon ended and will be started again (by process {pid}): wait for it, or "
                "give it up with 'brosd stop'"
            )
    except (InstanceError, KeyFileError) as error:
        raise ServeError(str(error)) from None
    fetch_model(config)  # here, where its progress can be seen
    log_path = config.state / "brosd.log"
    daemon = [sys.executable, "-m", "bros.cli.daemon", "start", *arguments]
    reading, writing = os.pipe()
    with open(reading) as report:
        try:
            _start_respawner(config.runtime, daemon, writing, log_path)
        except OSError as error:
            raise ServeError(write_error(config.state, "state_dir", error)) from None
        finally:
            os.close(writing)
        return _wait_ready(report, log_path)


def _start_respawner(runtime: Path, daemon: list[str], report_fd: int, log_path: Path) -> None:
    log_fd = os.open(log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        subprocess.Popen(
            [sys.executable, "-m", "bros.brosd.respawn", str(runtime), str(report_fd), *daemon],
            stdin=subprocess.DEVNULL,
            stdout=log_fd,
            stderr=log_fd,
            env=environ_of_child(),
            pass_fds=[report_fd],
            start_new_session=True,
        )
    finally:
        os.close(log_fd)


def _wait_ready(report: TextIO, log_path: Path) -> int:
    """Read how the start goes, and return the daemon's process id."""
    reason, pid = "it ended without a reason", 0
    for line in report:
        name, _, value = line.rstrip().partition("=")
        if name == "MAINPID":
            pid = int(value)
        elif name == "READY":
            return pid
        else:
            reason = value.removeprefix("failed: ")
    raise ServeError(f"{reason} (log: {log_path})")


def keys_of(config: Config) -> Keys:
    """Return the API keys of the configured state folder. Raise ServeError if that fails."""
    try:
        make_folder(config.state, "state_dir")
        return Keys(config.state)
    except (InstanceError, KeyFileError) as error:
        raise ServeError(str(error)) from None


def reload(config: Config) -> None:
    """Have the daemon read its configuration again. Raise ServeError if none runs."""
    pid, _ = _processes(config)
    if pid is None:
        raise ServeError(f"no daemon runs in {config.runtime}: start it with 'brosd start'")
    os.kill(pid, signal.SIGHUP)


def stop(config: Config, *, now: bool = False) -> bool:
    """End the daemon, and the parent that would start it again; wait for their ends.

    Return False if none runs. Raise ServeError if it does not end.
    """
    pid, respawner = _processes(config)
    target = respawner or pid  # the respawner passes the signal on
    if target is None:
        return False
    with suppress(ProcessLookupError):
        os.kill(target, signal.SIGQUIT if now else signal.SIGTERM)
    deadline_s = time.monotonic() + KILL_AFTER_S + (0 if now else config.server.drain_timeout_s)
    while target in (left := _processes(config)) or (pid is not None and pid in left):
        if time.monotonic() > deadline_s:
            ends = " ".join(str(process) for process in left if process is not None)
            raise ServeError(
                f"process {target} does not stop: try 'brosd stop --now' or kill -9 {ends}"
            )
        time.sleep(POLL_S)
    return True


def _processes(config: Config) -> tuple[int | None, int | None]:
    """Return the process ids of the daemon and of its respawner, None for one that is not there.

    Raise ServeError if the runtime folder is another user's.
    """
    try:
        return running_pid(config.runtime), respawner_pid(config.runtime)
    except InstanceError as error:
        raise ServeError(str(error)) from None
