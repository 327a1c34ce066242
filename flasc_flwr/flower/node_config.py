"""A device's ``--node-config``: keys that are nearly one of ours are typing errors.

The keys of a ``--node-config`` belong to three: to Flower, to the user's own app, and
to this project. A key that nobody reads has no effect, and nobody notices: a device
whose owner wrote ``upload_density`` sends more than its owner wanted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

NODE_CONFIG = "--node-config"

_SHORT = 6
"""Names of up to so many letters may be one letter off, longer ones two."""


class NodeConfigError(ValueError):
    """A key of a device's ``--node-config`` that is nearly one that is read."""


def refuse_near_misses(keys: Iterable[str], known: Collection[str]) -> None:
    """Refuse keys that are nearly one of the known ones.

    These have ``_`` for ``-`` or another case, or one or two letters that are wrong,
    missing or too many. All other keys may be the user's own.

    Raises
    ------
    NodeConfigError
        Names the first such key and the one that is meant, and no value.
    """
    for key in keys:
        if key not in known and (meant := near_miss(key, known)):
            raise NodeConfigError(
                f"{key} is not a key of {NODE_CONFIG}, did you mean {meant}?"
            )


def near_miss(key: str, known: Collection[str]) -> str | None:
    """Return which of the known keys `key` nearly is; None if it is not near any."""
    plain = key.lower().replace("_", "-")
    if plain in known:
        return plain
    near = {one: _edits(plain, one) for one in known}
    best = min(near, key=lambda one: near[one])
    return best if near[best] <= (1 if len(best) <= _SHORT else 2) else None


def _edits(one: str, other: str) -> int:
    """Return how many letters to add, drop or replace (Levenshtein's distance)."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        above, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (a != b))
    return row[-1]
