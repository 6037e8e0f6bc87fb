"""The tree shows the architecture: few loose modules, short files, no import in a circle."""

import ast
import graphlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("brosd", "workers", "kv", "cli")
FOLDERS = (*PACKAGES, "tests", "benchmarks", "examples", "docs")
MAX_LINES = 300
MAX_LOOSE_MODULES = 12

# Which folders of `brosd/` may import which others; a folder may always import itself.
FOLDERS_OF_BROSD = {
    "protocol": set[str](),
    "client": {"protocol", "locks", "config"},
    "scheduling": {"protocol", "config"},
    "fleet": {"protocol", "scheduling", "config", "systemd"},
    "tokenizer": {"protocol", "api_keys", "config", "scheduling"},
}


def modules() -> dict[str, Path]:
    """Every module of the four packages, by its absolute name."""
    files = [file for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    return {name_of(file): file for file in files}


def name_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(("bros", *parts)).removesuffix(".__init__")


def imported(file: Path, known: dict[str, Path]) -> set[str]:
    """Modules of ours that a file imports when it is imported itself."""
    found: set[str] = set()
    for node in runs_at_import(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            submodules = {f"{node.module}.{alias.name}" for alias in node.names} & known.keys()
            found |= submodules or {node.module}
    return found & known.keys()


def runs_at_import(tree: ast.AST) -> list[ast.AST]:
    """All nodes outside functions."""
    nodes: list[ast.AST] = []
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            nodes += [node, *runs_at_import(node)]
    return nodes


def test_no_module_imports_itself_by_way_of_others() -> None:
    known = modules()
    graph = {name: imported(file, known) - {name} for name, file in known.items()}
    assert sum(map(len, graph.values())) > len(graph)  # the imports were found
    list(graphlib.TopologicalSorter(graph).static_order())  # CycleError names the circle


@pytest.mark.parametrize("folder", FOLDERS_OF_BROSD)
def test_folders_of_the_daemon_import_only_those_below(folder: str) -> None:
    known = modules()
    for file in (ROOT / "brosd" / folder).rglob("*.py"):
        ours = {name for name in imported(file, known) if name.startswith("bros.brosd.")}
        used = {name.split(".")[2] for name in ours} - {folder}
        assert used <= FOLDERS_OF_BROSD[folder], f"{file.relative_to(ROOT)} imports {used}"


@pytest.mark.parametrize("package", ["brosd", "workers"])
def test_few_modules_lie_loose(package: str) -> None:
    loose = sorted(file.name for file in (ROOT / package).glob("*.py"))
    assert 0 < len(loose) <= MAX_LOOSE_MODULES, loose


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_file_is_too_long(folder: str) -> None:
    lengths = {
        str(file.relative_to(ROOT)): len(file.read_text().splitlines())
        for file in (ROOT / folder).rglob("*.py")
    }
    assert lengths
    too_long = {file: lines for file, lines in lengths.items() if lines > MAX_LINES}
    assert not too_long, too_long
