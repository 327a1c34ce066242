"""Re-reading of KEY=VALUE text: Flower's parser drops what it does not understand."""

from __future__ import annotations

import re
from collections.abc import Sequence

_PAIR = re.compile(r"""\s*([^\s=]+)=('[^']*'|"[^"]*"|[^\s'"]\S*)(?=\s|$)""")
"""A pair as Flower reads it, but with nothing left over behind it."""


def require_all_read(option: str, text: str) -> None:
    """Check that Flower would read all of a text, and drop nothing.

    ``seed=1 lora-rank = 8`` would lose the rank, ``class-names='a','b'`` the second
    class.

    Parameters
    ----------
    option : str
        Where the text comes from, such as ``--run-config``.
    text : str
        Settings as ``KEY=VALUE``, or the path of a TOML file.

    Raises
    ------
    ValueError
        Shows the first part that would be dropped.
    """
    if text.strip().endswith(".toml"):
        return
    end = 0
    while pair := _PAIR.match(text, end):
        end = pair.end()
    dropped = text[end:].strip()
    if dropped:
        raise ValueError(
            f"{option}: Flower would drop {_first(dropped)!r}; write KEY=VALUE without "
            "spaces around =, and text in one pair of quotes, such as "
            "\"lora-rank=8 class-names='cat,dog'\""
        )


def repeated_key(texts: Sequence[str]) -> str | None:
    """Return the first key that one of the texts has twice; None if there is none."""
    for text in texts:
        keys = [pair.group(1) for pair in _PAIR.finditer(text)]
        for number, key in enumerate(keys):
            if key in keys[:number]:
                return key
    return None


def _first(dropped: str) -> str:
    shown = 40
    return dropped if len(dropped) <= shown else dropped[:shown] + "..."
