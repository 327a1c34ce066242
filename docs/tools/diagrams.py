"""Mermaid diagrams as SVG in the page: no script, and nothing to load."""

from __future__ import annotations

import re
from html import escape
from typing import Any

import mermaidx

# Colours of the figures; a light ground in both colour schemes (stylesheets/site.css).
_THEME = {
    "theme": "base",
    "themeVariables": {
        "primaryColor": "#e8f1f8",
        "primaryBorderColor": "#0072B2",
        "primaryTextColor": "#1b1b1b",
        "lineColor": "#444444",
        "tertiaryColor": "#f6f8fa",
        "edgeLabelBackground": "#ffffff",
        "fontFamily": "Arial, Helvetica, sans-serif",
    },
}
_DIAGRAM = re.compile(r"^```mermaid\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Draw the page's diagrams."""

    def drawn(match: re.Match[str]) -> str:
        source = match[1]
        try:
            svg = mermaidx.render(source, config=_THEME).svg()
        except Exception as error:
            where = page.file.src_uri
            raise ValueError(f"a diagram in {where} cannot be drawn: {error}") from None
        svg = re.sub(r"\s*\n\s*", " ", svg).strip()
        words = escape(" ".join(source.split()), quote=True)
        return f'<div class="diagram" role="img" aria-label="{words}">{svg}</div>'

    return _DIAGRAM.sub(drawn, markdown)
