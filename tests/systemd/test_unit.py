"""The unit file: systemd takes it without a word, and finds little to worry about."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

UNIT = Path(__file__).parents[2] / "systemd/brosd.service"

pytestmark = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze"
)


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with a program that is there."""
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/bros/bin/brosd", "/bin/true"))
    return unit


def analyze(*arguments: str) -> str:
    command = ["systemd-analyze", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def test_systemd_takes_the_unit_without_a_word(unit: Path) -> None:
    assert analyze("verify", str(unit)) == ""


def test_the_unit_is_hardened(unit: Path) -> None:
    report = analyze("security", "--offline=true", "--no-pager", str(unit))
    found = re.search(r"exposure level for brosd.service: ([0-9.]+)", report)
    assert found is not None
    assert float(found[1]) < 3.0
