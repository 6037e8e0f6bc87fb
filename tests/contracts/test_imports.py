"""Who may import whom, and that a file has one module name only."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("brosd", "workers", "kv", "cli")

# What each package may use of the others; `*` is everything.
MAY_IMPORT = {
    "kv": {"bros.kv.*"},
    "workers": {
        "bros.workers.*",
        "bros.kv.*",
        "bros.brosd.config",
        "bros.brosd.protocol.*",
    },
    "brosd": {"bros.brosd.*", "bros.kv.*"},
    "cli": {
        "bros.cli.*",
        "bros.brosd.client.*",
        "bros.brosd.config",
        "bros.brosd.lifecycle",
        "bros.brosd.protocol.batch_lines",
    },
}
TORCH = {"torch", "transformers", "numba", "flash_attn", "accelerate", "gguf"}


def imports_of(file: Path) -> set[str]:
    """Absolute names of the modules that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            assert node.module is not None
            module = node.module
            if module in ("bros", *(f"bros.{package}" for package in PACKAGES)):
                names |= {f"{module}.{alias.name}" for alias in node.names}
            else:
                names.add(module)
    return names


def allowed(name: str, rules: set[str]) -> bool:
    return any(
        name == rule or (rule.endswith("*") and name.startswith(rule[:-1])) for rule in rules
    )


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_only_what_they_may(package: str) -> None:
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for file in files:
        ours = {name for name in imports_of(file) if name.split(".")[0] == "bros"}
        ours.discard("bros.__version__")
        wrong = {name for name in ours if not allowed(name, MAY_IMPORT[package])}
        assert not wrong, f"{file.relative_to(ROOT)} imports {wrong}"


@pytest.mark.parametrize("package", ["brosd", "kv", "cli"])
def test_only_workers_load_models(package: str) -> None:
    for file in (ROOT / package).rglob("*.py"):
        if file.is_relative_to(ROOT / "brosd" / "tokenizer"):
            continue  # the tokenizer process takes its text handling from transformers
        heavy = {name.split(".")[0] for name in imports_of(file)} & TORCH
        assert not heavy, f"{file.relative_to(ROOT)} imports {heavy}"


def test_the_daemon_never_loads_torch() -> None:
    code = "import bros.brosd.daemon, bros.brosd.lifecycle, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not TORCH & set(done.stdout.split())


@pytest.mark.parametrize("package", PACKAGES)
def test_a_bare_import_fails_even_in_the_checkout(package: str) -> None:
    code = f"import {package}"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert f"import bros.{package}, not {package}" in done.stderr
