"""From a configuration to a running daemon, in this process or detached, and back to none."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import uvloop

from bros.brosd.api_keys import KeyFileError as KeyFileError
from bros.brosd.api_keys import Keys
from bros.brosd.api_keys import check_keys as check_keys
from bros.brosd.config import Config
from bros.brosd.daemon import Daemon, DaemonError, ReadConfig
from bros.brosd.fleet.devices import DeviceError, find_groups, share_cores
from bros.brosd.locks import InstanceError, instance, make_folder, make_folders, running_pid
from bros.brosd.protocol.child import setup_logging
from bros.brosd.systemd import notify

log = logging.getLogger(__name__)

POLL_S = 0.1
KILL_AFTER_S = 15.0  # beyond the drain timeout


class ServeError(RuntimeError):
    """The daemon does not run, or does not stop; the text is one line that says why."""


def fetch_model(config: Config) -> Path:
    """The local folder of the configured model, fetched and converted if it is not there yet.

    In a process of its own, since that needs torch and this one must never load it.
    """
    command = [
        sys.executable,
        "-m",
        "bros.workers.models.fetch",
        config.model.name,
        str(config.cache),
    ]
    environ = {**os.environ, "PYTHONSAFEPATH": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environ, check=False)
    if done.returncode != 0:
        raise ServeError(f"model {config.model.name} cannot be had; the reason is above")
    return Path(done.stdout.strip())


def serve(config: Config, load: ReadConfig) -> None:
    """Run the daemon in this process until it is told to stop. ServeError if it cannot.

    `load` reads the configuration again, for SIGHUP.
    """
    setup_logging(config.log.level, "brosd")
    try:
        with instance(config):
            check_keys(config)
            groups = find_groups(config)
            model = fetch_model(config)

            def again() -> Config:
                return share_cores(load(), groups)

            uvloop.run(Daemon(share_cores(config, groups), model, groups, again).run())
    except (DaemonError, DeviceError, InstanceError, KeyFileError, ServeError) as error:
        notify(f"STATUS=failed: {error}")
        raise ServeError(str(error)) from None


def serve_detached(config: Config, arguments: Sequence[str]) -> int:
    """Start `brosd start ARGUMENTS` in the background; returns its process id when it is ready.

    ServeError with the daemon's own reason if it ends before that.
    """
    if pid := running_pid(config.runtime):
        raise ServeError(f"a daemon is running already (process {pid}): see 'brosd status'")
    try:
        make_folders(config)
        check_keys(config)
    except (InstanceError, KeyFileError) as error:
        raise ServeError(str(error)) from None
    fetch_model(config)  # here, where its progress can be seen
    address = f"bros-{os.getpid()}-{secrets.token_hex(8)}"
    log_path = config.state / "brosd.log"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as inbox, log_path.open("ab") as output:
        inbox.bind(f"\0{address}")
        inbox.settimeout(POLL_S)
        process = subprocess.Popen(
            [sys.executable, "-m", "bros.cli.daemon", "start", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, "NOTIFY_SOCKET": f"@{address}", "PYTHONSAFEPATH": "1"},
            start_new_session=True,
        )
        _wait_ready(process, inbox, log_path)
    return process.pid


def _wait_ready(process: subprocess.Popen[bytes], inbox: socket.socket, log_path: Path) -> None:
    reason = ""
    while True:
        ended = process.poll() is not None
        try:
            lines = inbox.recv(4096).decode().splitlines()
        except TimeoutError:
            if ended:
                reason = reason or f"it exited with status {process.returncode}"
                raise ServeError(f"{reason} (log: {log_path})") from None
            continue
        if "READY=1" in lines:
            return
        for line in lines:
            reason = line.removeprefix("STATUS=failed: ") if "failed: " in line else reason


def keys_of(config: Config) -> Keys:
    """The API keys of the configured state folder. ServeError if they cannot be read."""
    try:
        make_folder(config.state)
        return Keys(config.state)
    except (InstanceError, KeyFileError) as error:
        raise ServeError(str(error)) from None


def reload(config: Config) -> None:
    """Have the daemon read its configuration again. ServeError if none runs."""
    pid = running_pid(config.runtime)
    if pid is None:
        raise ServeError(f"no daemon runs in {config.runtime}: start it with 'brosd start'")
    os.kill(pid, signal.SIGHUP)


def stop(config: Config, *, now: bool = False) -> bool:
    """End the daemon and wait for its end; False if none runs. ServeError if it does not end."""
    pid = running_pid(config.runtime)
    if pid is None:
        return False
    os.kill(pid, signal.SIGQUIT if now else signal.SIGTERM)
    deadline_s = time.monotonic() + KILL_AFTER_S + (0 if now else config.server.drain_timeout_s)
    while running_pid(config.runtime) == pid:
        if time.monotonic() > deadline_s:
            raise ServeError(
                f"process {pid} does not stop: try 'brosd stop --now' or kill -9 {pid}"
            )
        time.sleep(POLL_S)
    return True
