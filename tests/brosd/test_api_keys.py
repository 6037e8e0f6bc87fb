"""API keys: only their hashes are kept, and a daemon that others can reach needs one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bros.brosd.api_keys import KeyFileError, Keys, check_keys, is_loopback
from bros.brosd.config import load, reloaded


def test_a_key_is_kept_as_its_hash(tmp_path: Path) -> None:
    key = Keys(tmp_path).create("alice")
    other = Keys(tmp_path).create("bob")
    stored = (tmp_path / "keys.json").read_text()
    assert key not in stored
    assert (tmp_path / "keys.json").stat().st_mode & 0o777 == 0o600
    keys = Keys(tmp_path)
    assert (keys.owner(key), keys.owner(other)) == ("alice", "bob")
    assert keys.owner(key[:-1]) is None
    assert keys.owner("") is None
    assert keys.owner("\ud800") is None
    with pytest.raises(KeyFileError, match="there is a key named alice"):
        keys.create("alice")
    keys.revoke("alice")
    assert Keys(tmp_path).owner(key) is None
    with pytest.raises(KeyFileError, match="no key named alice"):
        keys.revoke("alice")


def test_what_root_makes_belongs_to_the_service(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root writes for others")
    tmp_path.chmod(0o700)
    os.chown(tmp_path, 12345, 54321)
    Keys(tmp_path).create("alice")
    Keys(tmp_path).create("bob")
    for file in tmp_path.iterdir():
        assert (file.stat().st_uid, file.stat().st_gid) == (12345, 54321)


def test_a_damaged_key_file_opens_no_door(tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text("[{]")
    with pytest.raises(KeyFileError, match="cannot be read"):
        Keys(tmp_path)


def test_keys_that_another_process_makes_or_revokes_are_known_at_once(tmp_path: Path) -> None:
    served = Keys(tmp_path)
    assert served.owner("bros-x") is None
    key = Keys(tmp_path).create("alice")
    assert served.owner(key) == "alice"
    Keys(tmp_path).create("bob")
    assert [known.name for known in served.all] == ["alice", "bob"]
    Keys(tmp_path).revoke("alice")
    assert served.owner(key) is None


def test_a_file_that_gets_damaged_changes_no_key(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    served = Keys(tmp_path)
    key = served.create("alice")
    (tmp_path / "keys.json").write_text("[{]")
    assert served.owner(key) == "alice"
    assert served.owner("bros-x") is None
    assert caplog.text.count("event=keys_not_read") == 1
    (tmp_path / "keys.json").unlink()
    assert served.owner(key) is None


def test_others_need_a_key(tmp_path: Path) -> None:
    here = [f"state_dir={tmp_path}"]
    check_keys(load(overrides=here, environ={}))
    for setting in ("server.host=0.0.0.0", "server.host=gpu7", "server.auth=always"):
        with pytest.raises(KeyFileError, match="brosd key create"):
            check_keys(load(overrides=[*here, setting], environ={}))
    Keys(tmp_path).create("alice")
    check_keys(load(overrides=[*here, "server.host=0.0.0.0"], environ={}))


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("", False),
        ("::", False),
        ("10.0.0.1", False),
        ("localhost.example.org", False),
    ],
)
def test_which_addresses_are_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_only_live_keys_change_in_a_reload() -> None:
    old = load(environ={})
    new = load(overrides=["slo.ttft_s=9", "server.port=1", "log.level=debug"], environ={})
    config, ignored = reloaded(old, new)
    assert (config.slo.ttft_s, config.log.level) == (9, "debug")
    assert (config.server.port, old.slo.ttft_s) == (8000, 0.5)
    assert ignored == ["server.port"]
