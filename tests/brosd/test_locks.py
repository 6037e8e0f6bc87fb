"""One daemon per folder; what a killed one left is swept."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bros.brosd.config import Config, load
from bros.brosd.locks import InstanceError, instance, running_pid


def config_in(folder: Path) -> Config:
    folders = {f"BROS_{name}_DIR": str(folder / name) for name in ("RUNTIME", "STATE", "CACHE")}
    return load(environ=folders)


def test_the_holder_is_known_while_it_lives(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    assert running_pid(config.runtime) is None
    with instance(config):
        assert running_pid(config.runtime) == os.getpid()
        assert config.runtime.stat().st_mode & 0o777 == 0o700
    assert running_pid(config.runtime) is None


def test_a_second_daemon_is_refused_either_folder(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    with instance(config):
        for name in ("runtime_dir", "state_dir"):
            other = config_in(tmp_path / "other")
            setattr(other, name, getattr(config, name))
            with pytest.raises(InstanceError, match=f"process {os.getpid()}"), instance(other):
                pass


def test_what_a_killed_daemon_left_is_swept(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    code = (
        "import os, sys, pathlib; from bros.brosd.config import load;"
        "from bros.brosd.locks import instance;"
        "config = load(environ=dict(os.environ));"
        "lock = instance(config); lock.__enter__();"
        "[(config.runtime / name).touch() for name in ('table-0.1.kv', 'daemon.sock')];"
        "os.kill(os.getpid(), 9)"
    )
    folders = {f"BROS_{name}_DIR": str(tmp_path / name) for name in ("RUNTIME", "STATE", "CACHE")}
    died = subprocess.run([sys.executable, "-c", code], env={**os.environ, **folders}, check=False)
    assert died.returncode == -9
    assert (config.runtime / "table-0.1.kv").exists()
    with instance(config):
        assert {path.name for path in config.runtime.iterdir()} == {"brosd.lock"}


def test_a_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    config = config_in(tmp_path)
    config.runtime.mkdir()
    os.chown(config.runtime, 12345, -1)
    with pytest.raises(InstanceError, match="belongs to user 12345"), instance(config):
        pass


def test_a_runtime_folder_that_others_can_read_is_closed_to_them(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    config.runtime.mkdir(mode=0o755)
    with instance(config):
        assert config.runtime.stat().st_mode & 0o777 == 0o700
