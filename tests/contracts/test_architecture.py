"""The page on the architecture has a line for everything that it should, and for nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("brosd", "workers", "kv", "cli")
LINE = re.compile(r"^\| `([a-z_/]+(?:/|\.py))` \| \S", re.MULTILINE)

PLACES = LINE.findall((ROOT / "docs" / "architecture.md").read_text())


@pytest.mark.parametrize("package", PACKAGES)
def test_every_folder_has_its_line(package: str) -> None:
    folders = {file.parent for file in (ROOT / package).rglob("*.py")}
    missing = {f"{folder.relative_to(ROOT)}/" for folder in folders} - set(PLACES)
    assert folders
    assert not missing, f"docs/architecture.md does not say what is in {missing}"


@pytest.mark.parametrize("package", ["brosd", "workers"])
def test_every_loose_module_has_its_line(package: str) -> None:
    modules = {file.relative_to(ROOT) for file in (ROOT / package).glob("[!_]*.py")}
    missing = {str(module) for module in modules} - set(PLACES)
    assert modules
    assert not missing, f"docs/architecture.md does not say what is in {missing}"


def test_every_line_names_something_that_is_there() -> None:
    gone = [place for place in PLACES if not (ROOT / place).exists()]
    assert not gone, f"docs/architecture.md names {gone}"
    assert len(PLACES) == len(set(PLACES))
