"""Configuration: sources in their order, and errors that say where and what."""

from pathlib import Path

import pytest

from bros.brosd.config import ConfigError, load, restore, save


def test_defaults_need_no_file(tmp_path: Path) -> None:
    config = load(environ={"XDG_CACHE_HOME": str(tmp_path)})
    assert config.server.port == 8000
    assert config.cache == tmp_path / "bros"


def test_later_sources_win(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("[server]\nport = 1\nhost = 'a'\n[kv]\nblock_size = 32\n")
    environ = {"BROS_SERVER_PORT": "2", "BROS_SERVER_HOST": "b", "BROS_STATE_DIR": "/state"}
    config = load(file, ["server.port=3"], environ)
    assert (config.server.port, config.server.host, config.kv.block_size) == (3, "b", 32)
    assert config.state_dir == "/state"


def test_a_name_may_look_like_a_number() -> None:
    assert load(overrides=["model.name=7"], environ={}).model.name == "7"


def test_systemd_folders_are_used() -> None:
    config = load(environ={"STATE_DIRECTORY": "/s", "RUNTIME_DIRECTORY": "/r"})
    assert (config.state_dir, config.runtime_dir) == ("/s", "/r")


def test_children_restore_what_the_daemon_saved(tmp_path: Path) -> None:
    config = load(overrides=["kv.num_blocks=7", "state_dir=/x"], environ={})
    save(config, tmp_path / "config.json")
    assert restore(tmp_path / "config.json") == config


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("kv.blok_size=3", ["kv.blok_size", "did you mean block_size"]),
        ("nonsense.key=3", ["nonsense", "known keys", "scheduler"]),
        ("kv.block_size=0", ["kv.block_size = 0", ">= 1"]),
        ("scheduler.policy=sjf", ["scheduler.policy", "'sjf'", "allowed: bros, fcfs"]),
        ("server.port=http", ["server.port = 'http'", "Expected `int`"]),
        ("server=3", ["server = 3", "Expected `object`"]),
        ("kv.rt_reserve=nan", ["kv.rt_reserve = nan"]),
        ("server.port", ["--set server.port", "section.key=value"]),
        ("state_dir.deeper=3", ["state_dir"]),
    ],
)
def test_mistakes_are_explained(override: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(overrides=[override], environ={})
    for word in words:
        assert word in str(caught.value)


def test_mistakes_name_their_source(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("[server]\nport = 'http'\n")
    with pytest.raises(ConfigError, match=r"config\.toml: server\.port"):
        load(file, environ={})
    file.write_text("port = = 1\n")
    with pytest.raises(ConfigError, match="line 1"):
        load(file, environ={})
    with pytest.raises(ConfigError, match="no such configuration file"):
        load(tmp_path / "absent.toml", environ={})
    with pytest.raises(ConfigError, match="BROS_SERVER_PORT"):
        load(environ={"BROS_SERVER_PORT": "http"})
