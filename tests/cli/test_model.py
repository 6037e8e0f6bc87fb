"""`bros model` lists, describes and removes what is in the cache; it needs no daemon."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Bros = Callable[..., Any]
CONFIG = {"architectures": ["TinyForCausalLM"], "model_type": "tiny", "num_hidden_layers": 2}


@pytest.fixture
def cache(environ: dict[str, str], tmp_path: Path) -> Path:
    """Empty caches, ours and the hub's."""
    environ["BROS_CACHE_DIR"] = str(tmp_path / "cache")
    environ["HF_HUB_CACHE"] = str(tmp_path / "hub")
    return tmp_path / "cache"


def put(cache: Path, name: str) -> Path:
    folder = cache / "models" / name
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "model.safetensors").write_bytes(b"x" * 2048)
    return folder


def put_hub(hub: Path) -> None:
    """Make a model as the hub's own client leaves it: blobs, and links to them."""
    repo = hub / "models--some--tiny"
    snapshot = repo / "snapshots" / "0123abc"
    for path in (repo / "blobs", repo / "refs", snapshot):
        path.mkdir(parents=True)
    (repo / "refs" / "main").write_text("0123abc")
    (repo / "blobs" / "b1").write_text(json.dumps(CONFIG))
    os.symlink("../../blobs/b1", snapshot / "config.json")


def test_list_show_and_remove(cache: Path, bros: Bros, tmp_path: Path) -> None:
    assert b"bros model pull NAME" in bros("model", "list").stdout
    folder = put(cache, "tiny.Q4-0123-v1")
    put_hub(tmp_path / "hub")
    rows = json.loads(bros("model", "list", "--json").stdout)
    assert [(row["name"], row["source"], row["served"]) for row in rows] == [
        ("some/tiny", "hub", False),
        ("tiny.Q4-0123-v1", "gguf", False),
    ]
    assert rows[1]["size_bytes"] > 2048
    listed = bros("model", "list").stdout.decode()
    assert listed.splitlines()[0].split() == ["model", "source", "size", "age"]
    shown = json.loads(bros("model", "show", "some/tiny", "--json").stdout)
    assert (shown["architecture"], shown["num_hidden_layers"]) == ("TinyForCausalLM", 2)
    assert "TinyForCausalLM" in bros("model", "show", "tiny.Q4-0123-v1").stdout.decode()
    for name in ("some/tiny", "tiny.Q4-0123-v1"):
        assert bros("model", "rm", name).returncode == 0
    assert json.loads(bros("model", "list", "--json").stdout) == []
    assert not folder.exists()


@pytest.mark.parametrize("command", ["show", "rm"])
def test_an_unknown_model(cache: Path, bros: Bros, command: str) -> None:
    done = bros("model", command, "nope")
    assert done.returncode == 1
    assert done.stderr == (
        b"error: nope is not on this machine (there are: none): "
        b"fetch it with 'bros model pull nope'\n"
    )


def test_what_cannot_be_pulled(cache: Path, bros: Bros) -> None:
    done = bros("model", "pull", "nope")
    assert done.returncode == 1
    assert b"nope: no such folder or file; give a Hugging Face folder" in done.stderr


def test_the_served_model_stays(tokenizer: Any, cache: Path, bros: Bros) -> None:
    tokenizer.stats.model = "tiny-v1"
    put(cache, "tiny-v1")
    assert json.loads(bros("model", "list", "--json").stdout)[0]["served"]
    done = bros("model", "rm", "tiny-v1")
    assert (done.returncode, done.stderr) == (
        1,
        b"error: tiny-v1 is being served: stop the daemon first, with 'brosd stop'\n",
    )
