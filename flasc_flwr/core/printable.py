"""Text from outside, as it may be logged and kept."""

from __future__ import annotations


def printable(text: object, limit: int = 300) -> str:
    """Return text that is safe in a log line, a row or a file name's place.

    Characters that are not printable (line breaks, escape codes, controls of the
    writing direction) become spaces, and runs of white space one space.

    Parameters
    ----------
    text : object
        What came from outside.
    limit : int
        Longest result, in characters; longer text ends in ``...``.
    """
    # Only the start is looked at: a text of megabytes costs no more than its cut.
    start = str(text)[: 4 * limit]
    words = "".join(c if c.isprintable() else " " for c in start).split()
    folded = " ".join(words)
    return folded if len(folded) <= limit else folded[: limit - 3] + "..."
