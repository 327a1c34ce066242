"""Pages that name files: docs/architecture.md every module, docs/security.md tests."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "flasc_flwr"
PAGE = (ROOT / "docs" / "architecture.md").read_text()
SECURITY = (ROOT / "docs" / "security.md").read_text()
TABLES = PAGE[PAGE.index("## The modules") : PAGE.index("## Decisions")]


def test_every_module_has_its_line():
    modules = {path.stem for path in PACKAGE.rglob("*.py") if path.stem[0] != "_"}
    named = set(re.findall(r"`(\w+)`", TABLES))
    assert modules - named == set()


def test_every_line_is_about_a_module_or_folder_that_exists():
    for name in re.findall(r"^\| (`.+?`) \|", TABLES, re.MULTILINE):
        for module in re.findall(r"`([\w/]+)`", name):
            found = [*PACKAGE.rglob(f"{module.rstrip('/')}*")]
            assert any(path.stem == module.rstrip("/") for path in found), module


def test_the_security_page_names_tests_that_exist():
    named = set(re.findall(r"`(tests/[\w/]+\.py)`", SECURITY))
    assert named and [name for name in named if not (ROOT / name).is_file()] == []
