"""The build fails on what would be wrong on the site."""

import shutil
import subprocess
import sys

import pytest

from tests.end_to_end.processes import ROOT

pytest.importorskip("mkdocs", reason="the extra 'docs' is not installed")

pytestmark = pytest.mark.exhaustive


@pytest.fixture
def site(tmp_path):
    """A copy of what the site is made of, and a function that builds it."""
    for name in ("docs", "flasc_flwr", "conf", "benchmarks", "examples", "deploy"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for file in (*ROOT.glob("*.md"), ROOT / "mkdocs.yml", ROOT / "pyproject.toml"):
        shutil.copy(file, tmp_path)

    def build():
        command = (sys.executable, "-m", "mkdocs", "build", "--strict")
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, timeout=300
        )
        return done.returncode, done.stdout + done.stderr

    return tmp_path, build


WRONG = {
    "[x](nowhere.md)": "'nowhere.md'",
    "[x](deploy.md#nowhere)": "does not contain an anchor '#nowhere'",
    "[x](../no-file)": "a link to ../no-file, which does not exist",
    "::: flasc_flwr.no_name": "flasc_flwr.no_name could not be found",
    '<img src="https://example.org/x.png">': "index.html loads https://example.org/x.png",
}


def test_it_names_all_that_is_wrong_with_links(site):
    folder, build = site
    page = folder / "docs" / "simulation.md"
    names = [text for text in WRONG if text.startswith(":::")]
    links = [text for text in WRONG if text not in names]
    page.write_text("\n\n".join([page.read_text(), *links]) + "\n")
    status, output = build()
    assert status != 0
    assert [text for text in links if WRONG[text] not in output] == [], output
    # This one ends the build at once.
    page.write_text("\n\n".join([page.read_text(), *names]) + "\n")
    status, output = build()
    assert status != 0 and WRONG[names[0]] in output, output


def test_it_names_a_page_with_a_mistake_in_a_diagram(site):
    folder, build = site
    (folder / "docs" / "simulation.md").write_text("```mermaid\nnowhere\n```\n")
    status, output = build()
    assert status != 0 and "a diagram in simulation.md cannot be drawn" in output


def test_links_out_of_docs_lead_to_the_repository(site, monkeypatch):
    folder, build = site
    monkeypatch.setenv("FLASC_REPOSITORY_URL", "https://code.example/me/flasc")
    status, output = build()
    assert status == 0, output
    page = (folder / "site" / "concepts" / "round" / "index.html").read_text()
    address = "https://code.example/me/flasc/tree/main/flasc_flwr/flower/round.py"
    assert f'href="{address}"' in page
    changes = (folder / "site" / "changelog" / "index.html").read_text()
    assert 'href="../security/"' in changes
