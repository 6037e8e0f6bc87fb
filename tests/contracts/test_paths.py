"""Modules that the documents name in backticks exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("brosd", "workers", "kv", "cli", "tests", "benchmarks", "examples", "docs", "src")
DOCUMENTS = [*ROOT.glob("[!C]*.md"), ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
MODULE = re.compile(r"`(?:python )?([\w./-]+\.py)`")

FILES = [file.relative_to(ROOT) for folder in FOLDERS for file in (ROOT / folder).rglob("*.py")]
PATHS = {str(file) for file in FILES}
NAMES = {file.name for file in FILES}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: str(file.relative_to(ROOT)))
def test_modules_that_are_named_exist(document: Path) -> None:
    named = MODULE.findall(document.read_text())
    gone = [name for name in named if name not in (PATHS if "/" in name else NAMES)]
    assert not gone, f"{document.relative_to(ROOT)} names {gone}"


def test_modules_are_named() -> None:
    assert sum(len(MODULE.findall(document.read_text())) for document in DOCUMENTS) > 50
