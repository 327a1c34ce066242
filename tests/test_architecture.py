"""docs/architecture.md names every module, and no module that does not exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
MODULES = {
    path.stem
    for path in (ROOT / "flasc_flwr").rglob("*.py")
    if not path.stem.startswith("__")
}


def named() -> set[str]:
    tables = PAGE[PAGE.index("## The modules") : PAGE.index("## Decisions")]
    first_cells = re.findall(r"^\| (.+?) \| (.+?) \|$", tables, re.MULTILINE)
    return set(re.findall(r"`([\w]+)`", " ".join(" ".join(c) for c in first_cells)))


def test_every_module_has_its_line():
    assert MODULES - named() == set()


def test_no_line_is_about_a_module_that_is_gone():
    public = {"SparseVector", "top_k", "Flasc", "flasc_mod", "SparseTransport"}
    assert named() - MODULES - public - {"compose", "module", "fit"} == set()
