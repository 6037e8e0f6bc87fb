"""What is built holds everything: from a ZIP of the repository, and from a source distribution."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("brosd", "cli", "kv", "workers")

Names = set[str]


def run(*command: str | Path, folder: Path = ROOT) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build_wheel(source: Path, out: Path) -> Names:
    """Build the folder or archive as users do, with the tools that are installed here."""
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation")
    run(*pip, "--wheel-dir", out, source)
    [wheel] = out.glob("*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


def files_of(archive: zipfile.ZipFile) -> Names:
    return {name for name in archive.namelist() if not name.endswith("/")}


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Names]:
    """The repository's last commit, from a ZIP as forges offer it; the names of its files."""
    folder = tmp_path_factory.mktemp("zip")
    run("git", "archive", "--format=zip", "--output", folder / "bros.zip", "HEAD")
    with zipfile.ZipFile(folder / "bros.zip") as archive:
        archive.extractall(folder / "bros")  # makes no links
        return folder / "bros", files_of(archive)


@pytest.fixture(scope="session")
def wheel(checkout: tuple[Path, Names], tmp_path_factory: pytest.TempPathFactory) -> Names:
    """The names in the wheel that the ZIP makes."""
    return build_wheel(checkout[0], tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def sdist(checkout: tuple[Path, Names], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution that the ZIP makes."""
    out = tmp_path_factory.mktemp("sdist")
    build = (sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", out)
    run(*build, checkout[0])
    [sdist] = out.glob("*.tar.gz")
    return sdist


def test_every_folder_with_modules_is_a_package_in_pyproject() -> None:
    named = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    files = [file for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    folders = {file.parent.relative_to(ROOT) for file in files}
    assert sorted(named) == sorted({"bros", *(".".join(("bros", *f.parts)) for f in folders)})
    for folder in folders:
        assert (ROOT / folder / "__init__.py").exists(), f"{folder} has no __init__.py"


def test_the_repository_has_no_links() -> None:
    links = [line for line in run("git", "ls-files", "--stage").splitlines() if line[:3] == "120"]
    assert not links


def test_a_wheel_holds_every_module(checkout: tuple[Path, Names], wheel: Names) -> None:
    modules = {name for name in checkout[1] if name.startswith(tuple(f"{p}/" for p in PACKAGES))}
    assert len(modules) > 100
    expected = {f"bros/{name}" for name in modules} | {"bros/__init__.py", "bros/py.typed"}
    assert {name for name in wheel if ".dist-info/" not in name} == expected


def test_a_source_distribution_is_the_repository(checkout: tuple[Path, Names], sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {m.name.partition("/")[2] for m in archive.getmembers() if m.isfile()}
    made = {name for name in names if ".egg-info/" in name} | {"PKG-INFO", "setup.cfg"}
    ours = names - made
    assert ours == checkout[1]
    assert {"Makefile", "CHANGELOG.md", "systemd/brosd.service", "docs/README.md"} <= ours
    assert Path(__file__).relative_to(ROOT).as_posix() in ours


def test_a_source_distribution_makes_the_same_wheel(
    sdist: Path, wheel: Names, tmp_path: Path
) -> None:
    assert build_wheel(sdist, tmp_path) == wheel
