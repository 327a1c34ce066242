"""Prepare a checkout for a release.

``python .ci/release.py version v0.2.0`` checks that every file that names the version
names this one. ``python .ci/release.py readme v0.2.0`` rewrites README.md for places
that carry no files beside it, the package index and Flower Hub: links and figures get
absolute addresses, and the package is installed by its name.
``python .ci/release.py hub FOLDER`` copies what Flower Hub gets.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
HUB = (
    *("flasc_flwr", "conf", "server_app.py", "client_app.py", "pyproject.toml"),
    *("README.md", "CHANGELOG.md", "LICENSE", ".gitignore"),
)
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
_DIAGRAM = re.compile(r"^```mermaid\n.*?^```$", re.MULTILINE | re.DOTALL)
_FIGURE = "![One round](docs/figures/one-round.svg)"


def version_problems(tag: str, root: Path = ROOT) -> list[str]:
    """Return which files do not name the version of a tag such as "v0.2.0"."""
    version = tag.removeprefix("v")
    lines = {
        "pyproject.toml": f'version = "{version}"',
        "flasc_flwr/__init__.py": f'__version__ = "{version}"',
        "CITATION.cff": f"version: {version}",
    }
    found = [
        f"{file} must have the line {line!r}"
        for file, line in lines.items()
        if line not in (root / file).read_text("utf-8").splitlines()
    ]
    if not re.fullmatch(r"v\d+\.\d+\.\d+((a|b|rc)\d+)?", tag):
        found.append(f"the tag must be v and a version such as v0.2.0, got {tag!r}")
    heading = rf"^## {re.escape(version)} \(\d{{4}}-\d\d-\d\d\)$"
    if not re.search(heading, (root / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE):
        found.append(f"CHANGELOG.md must have a heading '## {version} (YYYY-MM-DD)'")
    return found


def repository(root: Path = ROOT) -> str:
    """Return the repository's address: Repository in pyproject.toml, or the variable.

    Raises
    ------
    ValueError
        If neither names one.
    """
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    named = project.get("urls", {}).get("Repository")
    found = named or os.environ.get("FLASC_REPOSITORY_URL", "")
    if not re.fullmatch(r"https://\S+", found):
        raise ValueError(
            "Repository in [project.urls] or FLASC_REPOSITORY_URL must be an https "
            f"address, got {found!r}"
        )
    return found.rstrip("/")


def absolute(readme: str, address: str, ref: str, root: Path = ROOT) -> str:
    """Return a README whose links and figures are addresses at a tag or commit.

    Its diagrams, which only code hosts draw, become the figure of the documentation.
    """

    def changed(match: re.Match[str]) -> str:
        mark, text, target = match.groups()
        if re.match(r"[a-z]+:|#", target):
            return match[0]
        path, _, anchor = target.partition("#")
        page = "tree" if (root / path).is_dir() else "blob"
        kind = "raw" if mark else page
        where = f"{address}/{kind}/{ref}/{path}{'#' * bool(anchor)}{anchor}"
        return f"{mark}[{text}]({where})"

    text = readme.replace('pip install ".[app]"', 'pip install "flasc-flwr[app]"')
    return _LINK.sub(changed, _DIAGRAM.sub(_FIGURE, text))


def copy_for_hub(to: Path, root: Path = ROOT) -> None:
    """Copy what Flower Hub gets to a new folder: the app, without tests and results."""
    to.mkdir(parents=True)
    listed = subprocess.run(
        ("git", "ls-files", "-z", *HUB),
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        target = to / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / name, target)


def main(what: str, argument: str) -> int:
    """Do one of the three; return the exit status."""
    if what == "version":
        problems = version_problems(argument)
        print("\n".join(problems), file=sys.stderr, end="\n" if problems else "")
        return 1 if problems else 0
    if what == "readme":
        file = ROOT / "README.md"
        file.write_text(absolute(file.read_text("utf-8"), repository(), argument))
    elif what == "hub":
        copy_for_hub(Path(argument))
    else:
        raise SystemExit(f"the first argument must be version, readme or hub: {what!r}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
