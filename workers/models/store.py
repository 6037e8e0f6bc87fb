"""`python -m bros.workers.models.store CACHE [rm NAME]`: list the local models as JSON; remove one.

It is a process of its own, as `fetch` is, so that the command line does not depend on how models
are stored.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from bros.workers.models.errors import ModelError
from bros.workers.models.resolve import PACKAGED, packaged_folder


@dataclass(frozen=True)
class LocalModel:
    """A model that can be served without fetching. `name` can be given as `--model`."""

    name: str
    source: str  # packaged, gguf or hub
    folder: str
    size_bytes: int
    modified_s: float


def local_models(cache: Path) -> list[LocalModel]:
    """Return all models on this machine, by name."""
    return sorted([*_converted(cache), *_from_hub()], key=lambda model: model.name)


def remove(name: str, cache: Path) -> None:
    """Delete a model's files. Raise ModelError if there is no model of that name."""
    for model in local_models(cache):
        if model.name == name:
            _remove(model)
            return
    known = ", ".join(model.name for model in local_models(cache)) or "none"
    raise ModelError(f"{name} is not on this machine; there are: {known}")


def _converted(cache: Path) -> Iterator[LocalModel]:
    packaged = {packaged_folder(model, cache): name for name, model in PACKAGED.items()}
    for folder in (cache / "models").glob("*/"):
        name = packaged.get(folder)
        source = "packaged" if name else "gguf"
        size_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        modified_s = folder.stat().st_mtime
        yield LocalModel(name or folder.name, source, str(folder), size_bytes, modified_s)


def _from_hub() -> Iterator[LocalModel]:
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        found = scan_cache_dir()
    except CacheNotFound:
        return
    for repo in found.repos:
        newest = max(repo.revisions, key=lambda revision: revision.last_modified, default=None)
        if repo.repo_type == "model" and newest and (newest.snapshot_path / "config.json").exists():
            folder, size_bytes = str(newest.snapshot_path), repo.size_on_disk
            yield LocalModel(repo.repo_id, "hub", folder, size_bytes, newest.last_modified)


def _remove(model: LocalModel) -> None:
    folder = Path(model.folder)
    if model.source != "hub":
        shutil.rmtree(folder)
        folder.with_name(f"{folder.name}.lock").unlink(missing_ok=True)
        return
    from huggingface_hub import scan_cache_dir

    found = scan_cache_dir()
    repos = [repo for repo in found.repos if repo.repo_id == model.name]
    revisions = [revision.commit_hash for repo in repos for revision in repo.revisions]
    found.delete_revisions(*revisions).execute()


def main() -> int:
    """Print JSON to standard output, errors to standard error. Return the exit status."""
    _, cache, *command = sys.argv
    try:
        if command:
            remove(command[-1], Path(cache))
        else:
            print(json.dumps([asdict(model) for model in local_models(Path(cache))]))
    except (ModelError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
