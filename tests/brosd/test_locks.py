"""One daemon per folder; what a killed one left is swept."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bros.brosd.client.client import Client, ClientError
from bros.brosd.config import Config, load
from bros.brosd.locks import InstanceError, instance, make_folders, running_pid


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


def give_away(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give something away")
    os.chown(path, 12345, -1, follow_symlinks=False)


@pytest.mark.parametrize("name", ["runtime", "state"])
def test_a_link_that_somebody_else_laid_is_not_followed(tmp_path: Path, name: str) -> None:
    config = config_in(tmp_path)
    theirs = tmp_path / "theirs"
    theirs.mkdir(mode=0o755)
    (theirs / "daemon.sock").touch()
    link: Path = getattr(config, name)
    link.symlink_to(theirs)
    give_away(link)
    with pytest.raises(InstanceError, match="is a link that belongs to user 12345"):
        make_folders(config)
    with pytest.raises(InstanceError, match="is a link"), instance(config):
        pass
    assert (theirs / "daemon.sock").exists()
    assert theirs.stat().st_mode & 0o777 == 0o755


def test_a_link_of_our_own_is_followed(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    (tmp_path / "disk").mkdir()
    config.state.symlink_to(tmp_path / "disk")
    with instance(config):
        assert (tmp_path / "disk" / "brosd.lock").exists()


def test_nobody_is_asked_in_a_folder_of_somebody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits there could be anyone, and could have us end any process of ours."""
    (tmp_path / "brosd.lock").write_text("1")
    give_away(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(InstanceError, match="belongs to user 12345"):
        running_pid(tmp_path)
    with pytest.raises(ClientError, match="belongs to user 12345"):
        Client(tmp_path)


def test_a_state_folder_that_others_can_read_is_closed_to_them(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    config.state.mkdir(mode=0o755)
    with instance(config):
        assert config.state.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_all_share_is_not_taken(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    config.state.mkdir()
    config.state.chmod(0o1777)
    with pytest.raises(InstanceError, match="shared by all users"), instance(config):
        pass
    assert config.state.stat().st_mode & 0o7777 == 0o1777


def test_only_files_of_a_daemon_are_swept(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    config.runtime.mkdir()
    strange = {"my.sock", "table-of-contents", "a.store", "config.json.old", "worker-x.1.sock"}
    ours = {"client.sock", "tokenizer.3.sock", "worker-0.2.r1.sock", "worker-1.9.store"}
    for name in strange | ours | {"config.json", "table-0.1.kv", "client.closed"}:
        (config.runtime / name).touch()
    (config.runtime / "daemon.sock").mkdir()
    with instance(config):
        left = {path.name for path in config.runtime.iterdir()}
    assert left == strange | {"brosd.lock", "daemon.sock"}


@pytest.mark.parametrize("key", ["runtime_dir", "state_dir"])
def test_a_full_disk_is_named_with_what_to_do(tmp_path: Path, key: str) -> None:
    folder = tmp_path / "full"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4k,mode=700", "none", str(folder)]
    if subprocess.run(mount, check=False).returncode != 0:
        pytest.skip("no file system can be mounted here")
    try:
        (folder / "filler").write_bytes(b"x" * 4096)
        config = config_in(tmp_path / "other")
        setattr(config, key, str(folder))
        with (
            pytest.raises(InstanceError, match=f"cannot write in {folder}: No space") as caught,
            instance(config),
        ):
            pass
        assert "free some space" in str(caught.value)
        assert f"--set {key}=" in str(caught.value)
    finally:
        subprocess.run(["umount", str(folder)], check=True)
