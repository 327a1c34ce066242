"""Docstrings on the page: without Sphinx roles and repeated defaults."""

from __future__ import annotations

import re
from typing import Any

_ROLE = re.compile(r":(?:mod|class|func|meth|attr):(?=<code)")
# The docstrings say each default in words; these are names of constants.
_DEFAULT = re.compile(r", default:\s*<code>(?:(?!</code>).)*</code>\s*\)", re.DOTALL)


def on_page_content(html: str, **_: Any) -> str:
    """Leave out the names of roles, and the defaults beside the types."""
    return _DEFAULT.sub(")", _ROLE.sub("", html))
