"""What a reply's arrays are: trained weights, or something else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from math import sqrt

import numpy as np
from flwr.app import ArrayRecord

from flasc_flwr.core.ranges import choice
from flasc_flwr.flower.npy import read
from flasc_flwr.flower.read_instructions import WORDS

AUTO, WEIGHTS, UPDATES = WORDS
"""What a reply's arrays are. `AUTO`: decided by their distance from those received.
`WEIGHTS`: the received arrays after training. `UPDATES`: what is to be added to them
(deltas, gradients)."""

Replies = str | Mapping[str, str]
"""One word for all ArrayRecords, or a word by key or shell pattern."""

CLOSE = 0.7
"""Largest distance of trained weights from those received, relative to their norm.

Arrays that are not related to the weights are about as far from them as zero is. Take a
gradient or a difference whose norm is q times that of the weights, and whose
correlation with them is c. Its distance is sqrt(1 + q^2 - 2 q c), which is below 0.7
only if c > 0.71.
"""


def check_replies(replies: Replies) -> Replies:
    """Check what a user says about replies.

    Raises
    ------
    ValueError
        If a word is unknown.
    """
    allowed = choice(*WORDS)
    if not isinstance(replies, Mapping):
        return str(allowed.require("replies", replies))
    return {
        key: allowed.require(f"replies[{key!r}]", word) for key, word in replies.items()
    }


def word_of(replies: Replies, key: str) -> str:
    """Return the word for the ArrayRecord of a key; `AUTO` if there is none."""
    if isinstance(replies, str):
        return replies
    if key in replies:
        return replies[key]
    for pattern, word in replies.items():
        if fnmatchcase(key, pattern):
            return word
    return AUTO


def are_trained(
    received: ArrayRecord, returned: ArrayRecord, names: Sequence[str]
) -> bool:
    """Return whether some arrays are those that were received, after training.

    They are if all of them together are close to those received (:data:`CLOSE`). If
    only zeros were received, that cannot be decided, and they are not.

    Parameters
    ----------
    received, returned : ArrayRecord
        What an app received and what it returned.
    names : Sequence[str]
        Names of arrays that both have, of equal shapes.
    """
    size = distance = 0.0
    for name in names:
        old, new = read(received[name]), read(returned[name])
        wide = np.result_type(np.float32, old, new)
        step = np.subtract(new, old, dtype=wide).ravel()
        flat = old.astype(wide, copy=False).ravel()
        with np.errstate(over="ignore", invalid="ignore"):
            distance += float(np.dot(step, step))
            size += float(np.dot(flat, flat))
    return size > 0 and sqrt(distance) <= CLOSE * sqrt(size)
