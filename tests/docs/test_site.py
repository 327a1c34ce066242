"""What the site's pages say and show, without building it."""

import json
import re
import runpy
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from docs.tools import screenshots
from flasc_flwr.core.codec import encode
from flasc_flwr.core.sparsity import top_k
from tests.end_to_end.processes import ROOT

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_a_page_says_for_whom_it_is_and_where_to_go_next(page):
    text = page.read_text()
    begin = text.split("\n## ")[0]
    assert re.search(r"\b[Ff]or (someone|whoever|people)\b", begin), begin
    last = text.split("\n## ")[-1]
    assert last.startswith("Where to go next\n") and "](" in last


ITEM = re.compile(r" *(?:[-*] |\d+\. |\|)")
FENCE = re.compile(r"^( *)```.*?^\1```", re.MULTILINE | re.DOTALL)


def not_rendered(text):
    """Return lines that GitHub shows as a list or table, and the site as plain text.

    The site's Markdown wants an empty line before a list, and four spaces before what
    else belongs to an item.
    """
    blocks = re.split(r"\n\s*\n", FENCE.sub(r"\1code", text))
    found = []
    for block in blocks:
        lines = [line for line in block.splitlines() if not re.match(r"#+ |<", line)]
        if not lines or lines[0].startswith("    "):
            continue
        if lines[0].startswith(" "):
            found.append(lines[0])
        if not ITEM.match(lines[0]):
            found += [line for line in lines[1:] if ITEM.match(line)]
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_lists_and_tables_are_shown_as_such(page):
    assert not_rendered(page.read_text()) == []


def test_a_list_that_the_site_would_not_show_is_found():
    assert not_rendered("Each has\n- one;\n- two.\n") == ["- one;", "- two."]
    assert not_rendered("Seen:\n| a |\n|---|\n") == ["| a |", "|---|"]
    assert not_rendered("- One.\n\n  ```sh\n  ls\n  ```\n- Two.\n") == [
        "  code",
        "- Two.",
    ]
    assert not_rendered("- One:\n\n    ```sh\n    ls\n    ```\n\n- Two.\n") == []


def test_the_drawing_of_a_round_is_that_of_its_numbers():
    draw = runpy.run_path(str(DOCS / "tools" / "one_round.py"))["draw"]
    shown = json.loads((DOCS / "figures" / "one-round.json").read_text())
    svg = (DOCS / "figures" / "one-round.svg").read_text()
    assert draw(shown) == svg  # python docs/tools/one_round.py
    for number in ("34,058 entries", "8,514 entries = 10,986 bytes", "10.7 times less"):
        assert number in svg


def test_the_table_of_payloads_is_measured():
    text = (DOCS / "concepts" / "sparse-messages.md").read_text()
    table = re.search(r"(\| density \|.*?)\n\n", text, re.DOTALL)[1].splitlines()
    formats = re.findall(r"`(\w+)`", table[0])
    vector = np.random.default_rng(0).normal(size=100_000).astype(np.float32)
    for line in table[2:]:
        density, *sizes = (cell.strip() for cell in line.strip("|").split("|"))
        kept = top_k(vector, float(Fraction(density)))
        found = [f"{len(encode(kept, values=values)):,}" for values in formats]
        assert found == sizes, density


def test_what_is_said_of_others_has_a_date_and_sources():
    text = (DOCS / "alternatives.md").read_text()
    assert re.search(r"Written on\s20\d\d-\d\d-\d\d", text)
    rows = [line for line in text.splitlines() if re.match(r"\| *\[", line)]
    assert len(rows) > 15
    for row in rows:
        assert "](https://" in row.split("|")[1], row
    assert "What flasc-flwr does not do" in text


def test_every_page_is_in_the_navigation():
    nav = (ROOT / "mkdocs.yml").read_text().split("\nnav:\n")[1].split("\n\n")[0]
    listed = set(re.findall(r"([\w/-]+\.md)$", nav, re.MULTILINE))
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    assert pages - listed == set()


def test_the_site_loads_nothing_from_elsewhere():
    """Its configuration; the page that a browser gets is checked by .ci/run."""
    text = (ROOT / "mkdocs.yml").read_text()
    assert "font: false" in text and "repo_url" not in text
    style = (DOCS / "stylesheets" / "site.css").read_text()
    assert "url(" not in style and "@import" not in style


def test_the_readme_is_short_and_its_links_exist():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 120
    for target in re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", text):
        assert (ROOT / target).exists(), target


def test_the_pictures_of_the_pages_are_those_of_the_code():
    """Otherwise run: python -m docs.tools.screenshots."""
    noted = json.loads(screenshots.FINGERPRINT.read_text())
    assert noted == screenshots.fingerprint()
    for name in ("report-page", "live-page"):
        for suffix, size in screenshots.SIZES.items():
            with Image.open(DOCS / "figures" / f"{name}{suffix}.png") as picture:
                assert picture.size == size
