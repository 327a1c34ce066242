"""Pages and links outside docs/: shown on the site, or linked to at the code host.

The pages are also read as files of the repository, where links such as ``../conf``
work. On the site, files of the root that have a page there are linked to it, and
others to the code host, if its address is known (``FLASC_REPOSITORY_URL``).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from posixpath import join, normpath, relpath
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
log = logging.getLogger("mkdocs.tools.repository")

# Files of the root, as pages.
PAGES = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security-policy.md",
    "README.md": "index.md",
}
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
_FENCE = re.compile(r"(^ *```.*?^ *```\s*$)", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are files of the root."""
    for source, page in PAGES.items():
        if files.get_file_from_path(page) is None:
            text = (ROOT / source).read_text(encoding="utf-8")
            files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Change the links that leave docs/; text in code blocks stays."""
    at = page.file.src_uri
    sources = {shown: source for source, shown in PAGES.items() if shown != "index.md"}
    source = sources.get(at) or f"docs/{at}"
    repository = str(config.extra.get("repository") or "").rstrip("/")

    def changed(match: re.Match[str]) -> str:
        mark, text, target = match.groups()
        if re.match(r"[a-z]+:|#", target):
            return match[0]
        path, _, anchor = target.partition("#")
        path = normpath(join(source, "..", path))
        where = PAGES.get(path) or (path[5:] if path.startswith("docs/") else "")
        if where and files.get_file_from_path(where):
            back = relpath(where, join(at, "..")) if "/" in at else where
            return f"{mark}[{text}]({back}{'#' * bool(anchor)}{anchor})"
        if path.startswith("../") or not (ROOT / path).exists():
            log.warning("%s has a link to %s, which does not exist", source, target)
            return match[0]
        return f"[{text}]({repository}/tree/main/{path})" if repository else text

    return _outside_fences(markdown, lambda part: _LINK.sub(changed, part))


def _outside_fences(markdown: str, change: Callable[[str], str]) -> str:
    parts = _FENCE.split(markdown)
    return "".join(part if i % 2 else change(part) for i, part in enumerate(parts))
