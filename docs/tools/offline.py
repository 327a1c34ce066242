"""The built site loads nothing from other hosts: what does is a warning."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

log = logging.getLogger("mkdocs.tools.offline")

_TAG = re.compile(r"<(?:script|img|link|iframe|source|video|audio)\b[^>]*>")
_ADDRESS = re.compile(r'\b(?:src|href|srcset)="?((?:https?:)?//[^"\s>]+)')
# Links between pages, which a browser does not load.
_NAMED_ONLY = re.compile(r'\brel="?(?:canonical|prev|next|alternate)\b')
_IN_STYLE = re.compile(r"(?:url\(\s*['\"]?|@import\s+['\"])((?:https?:)?//[^'\")]+)")


def on_post_build(config: Any) -> None:
    """Look through the pages and styles."""
    site = Path(config.site_dir)
    for page in site.rglob("*.html"):
        for tag in _TAG.findall(page.read_text(encoding="utf-8")):
            if not _NAMED_ONLY.search(tag):
                _warn(page.relative_to(site), _ADDRESS.findall(tag))
    for style in site.rglob("*.css"):
        _warn(style.relative_to(site), _IN_STYLE.findall(style.read_text("utf-8")))


def _warn(file: Path, addresses: list[str]) -> None:
    for address in addresses:
        log.warning(
            "%s loads %s: the site must not load from other hosts", file, address
        )
