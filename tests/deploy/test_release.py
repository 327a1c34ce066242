"""What a release consists of: versions, addresses, and the limits of Flower Hub."""

import importlib
import io
import re
import runpy
import shutil
import tomllib
import zipfile

import pytest
import yaml
from flwr.cli.build import build_fab_from_disk
from flwr.common.constant import FAB_MAX_SIZE

from tests.end_to_end.processes import ROOT

# The package has the command under this name.
publish = importlib.import_module("flwr.cli.app_cmd.publish")
RELEASE = runpy.run_path(str(ROOT / ".ci" / "release.py"))
HOME = "https://code.example/me/flasc"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
VERSION = PROJECT["project"]["version"]
VERSIONED = ("pyproject.toml", "flasc_flwr/__init__.py", "CITATION.cff", "CHANGELOG.md")

needs_git = pytest.mark.skipif(
    not (ROOT / ".git").exists(), reason="not a git checkout: no list of its files"
)


@pytest.fixture
def checkout(tmp_path):
    """A copy of the files that name the version."""
    for name in VERSIONED:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def test_every_file_names_the_same_version(checkout):
    problems = RELEASE["version_problems"]
    changes = checkout / "CHANGELOG.md"
    text = changes.read_text().replace("(unreleased)", "(2026-12-01)")
    changes.write_text(text)
    assert problems(f"v{VERSION}", checkout) == []
    assert len(problems("v9.9.9", checkout)) == 4
    (checkout / "CITATION.cff").write_text("version: 0.0.1\n")
    assert problems(f"v{VERSION}", checkout) == [
        f"CITATION.cff must have the line 'version: {VERSION}'"
    ]
    assert "the tag must be v and a version" in problems("release", checkout)[-2]
    changes.write_text(text.replace("2026-12-01", "unreleased"))
    assert "CHANGELOG.md must have a heading" in problems(f"v{VERSION}", checkout)[-1]


def test_the_readme_of_a_release_needs_no_files_beside_it():
    readme = (ROOT / "README.md").read_text()
    text = RELEASE["absolute"](readme, HOME, "v0.2.0")
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    assert [t for t in targets if not re.match(r"https://|#", t)] == []
    figures = re.findall(r"!\[[^]]*\]\(([^)\s]+)\)", text)
    assert len(figures) >= 2 and "```mermaid" not in text
    for address in figures:
        assert address.startswith(f"{HOME}/raw/v0.2.0/docs/figures/")
    for address in (t for t in targets if t.startswith(HOME)):
        kind, _, path = address.removeprefix(f"{HOME}/").partition("/v0.2.0/")
        file = ROOT / path.partition("#")[0]
        assert file.is_dir() if kind == "tree" else file.is_file(), address
    assert 'pip install "flasc-flwr[app]"' in text


def test_the_repository_is_named_by_the_project_or_by_the_workflow(
    tmp_path, monkeypatch
):
    project = tmp_path / "pyproject.toml"
    project.write_text("[project]\nname = 'x'\n")
    monkeypatch.setenv("FLASC_REPOSITORY_URL", f"{HOME}/")
    assert RELEASE["repository"](tmp_path) == HOME
    project.write_text("[project.urls]\nRepository = 'https://code.example/other'\n")
    assert RELEASE["repository"](tmp_path) == "https://code.example/other"
    project.write_text("[project]\nname = 'x'\n")
    monkeypatch.delenv("FLASC_REPOSITORY_URL")
    with pytest.raises(ValueError, match="must be an https address, got ''"):
        RELEASE["repository"](tmp_path)


@needs_git
def test_flower_hub_takes_the_app(tmp_path, capsys):
    """The checks of ``flwr app publish``, on what a release copies for it."""
    app = tmp_path / PROJECT["project"]["name"]
    RELEASE["copy_for_hub"](app)
    publish._validate_app_name(app.name, "folder")
    description = PROJECT["project"]["description"]
    publish._validate_description(description)
    assert len(description) <= 200  # a longer one is asked about
    assert re.fullmatch(
        r"[a-zA-Z][a-zA-Z0-9-]*", PROJECT["tool"]["flwr"]["app"]["publisher"]
    )
    files = publish._collect_file_paths(app)
    publish._validate_files(files)
    skipped = re.findall(r"Skip: (\S+)", capsys.readouterr().out)
    # Reports need them, and are made with the installed package.
    assert {name.rpartition(".")[2] for name in skipped} == {"html", "css", "typed"}
    assert len(files) < publish.MAX_FILE_COUNT / 2
    assert len(build_fab_from_disk(app)) < FAB_MAX_SIZE / 2


@needs_git
def test_a_bundle_has_the_app_and_nothing_else():
    bundle = build_fab_from_disk(ROOT)
    assert len(bundle) < FAB_MAX_SIZE / 2
    names = set(zipfile.ZipFile(io.BytesIO(bundle)).namelist())
    modules = {
        str(file.relative_to(ROOT)) for file in (ROOT / "flasc_flwr").rglob("*.py")
    }
    assert names - modules == {
        *("client_app.py", "server_app.py", "pyproject.toml", "README.md", "LICENSE"),
        ".info/CONTENT",
    }
    # Flower leaves out what looks like a test.
    assert modules - names == set()


def test_the_release_is_attested_before_it_is_published():
    text = (ROOT / ".github" / "workflows" / "release.yml").read_text()
    jobs = yaml.safe_load(text)["jobs"]
    used = {
        name: [step.get("uses", "").partition("@")[0] for step in job["steps"]]
        for name, job in jobs.items()
    }
    assert jobs["publish"]["needs"] == "attest" and jobs["attest"]["needs"] == "build"
    assert {"actions/attest-build-provenance", "actions/attest-sbom"} <= {
        *used["attest"]
    }
    (upload,) = (s for s in jobs["publish"]["steps"] if "pypi-publish" in str(s))
    assert upload["with"]["attestations"] is True
    commands = "\n".join(step.get("run", "") for step in jobs["build"]["steps"])
    assert commands.index("release.py version") < commands.index("python -m build")
    assert commands.index("release.py readme") < commands.index("python -m build")
    assert "cyclonedx-py" in commands
    # No job may do more than it needs, or run for ever.
    for name, job in jobs.items():
        assert job["timeout-minutes"] <= 10, name
        writes = {k for k, v in job.get("permissions", {}).items() if v == "write"}
        assert writes <= {
            "attest": {"attestations", "id-token"},
            "publish": {"id-token"},
            "page": {"contents"},
        }.get(name, set())
