"""What import-linter cannot express of the contracts in `pyproject.toml`.

It sees an external package as one module, and checks cycles between siblings only.
"""

import ast
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PRIVATE = ("cli", "common", "proto", "server", "simulation", "supercore")
"""Subpackages of Flower's that are not its public interface."""


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(p): p for p in sorted((ROOT / "flasc_flwr").rglob("*.py"))}


def imported(path: Path) -> set[str]:
    """Return every module that a file imports, those for type checking included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, f"{path}: relative import"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                found.add(name if name in SOURCES else node.module)
    return found


IMPORTS = {name: imported(path) for name, path in SOURCES.items()}


def test_no_module_imports_itself_through_others():
    # The root loads its public names when they are first used.
    graph = {
        name: names & SOURCES.keys()
        for name, names in IMPORTS.items()
        if name != "flasc_flwr"
    }
    TopologicalSorter(graph).prepare()


def test_core_imports_only_numpy_and_the_standard_library():
    allowed = {"numpy", "flasc_flwr", *sys.stdlib_module_names}
    for name, names in IMPORTS.items():
        if name.startswith("flasc_flwr.core"):
            assert {n.split(".")[0] for n in names} <= allowed, name


@pytest.mark.parametrize("subpackage", PRIVATE)
def test_only_compat_imports_private_names_of_flowers(subpackage):
    private = f"flwr.{subpackage}"
    importers = {
        name
        for name, names in IMPORTS.items()
        if any(n == private or n.startswith(private + ".") for n in names)
    }
    assert importers <= {"flasc_flwr.flower.compat"}


def test_the_package_imports_no_entry_point():
    for name, names in IMPORTS.items():
        assert not names & {"server_app", "client_app"}, name
