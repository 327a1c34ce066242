"""The notebooks, executed as they are; they are committed without their output."""

import json
import re

import pytest

from tests.end_to_end.processes import ROOT

NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))


def read(path):
    cells = json.loads(path.read_text())["cells"]
    return [cell | {"source": "".join(cell["source"])} for cell in cells]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_has_no_output_and_its_links_exist(path):
    cells = read(path)
    assert all(not cell.get("outputs") for cell in cells)
    for cell in cells:
        if cell["cell_type"] == "markdown":
            for target in re.findall(r"\]\(([^)#]+)", cell["source"]):
                assert (path.parent / target).exists(), target


@pytest.mark.exhaustive
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="the extra 'docs' has it")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=":")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(path, as_version=4)
    # Runs go to the working folder; the checkout is found from there by its files.
    work = tmp_path / "checkout" / "work"
    work.mkdir(parents=True)
    for name in ("server_app.py", "client_app.py", "pyproject.toml", "flasc_flwr"):
        (work.parent / name).symlink_to(ROOT / name)
    resources = {"metadata": {"path": str(work)}}
    nbclient.NotebookClient(notebook, timeout=600, resources=resources).execute()
    printed = "".join(
        output.get("text", "")
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if output.get("name") == "stdout"
    )
    assert re.search(r"\([\d.]+ times\)|[\d.]+ times fewer bytes", printed), printed
