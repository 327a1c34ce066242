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
"""What a reply's arrays are: to be decided by evidence; the arrays received, trained;
what is to be added to them (deltas, gradients)."""

Replies = str | Mapping[str, str]
"""One word for all ArrayRecords, or a word by key or shell pattern."""

CLOSE = 0.7
"""Trained weights are at most this far from those received, relative to their norm.

What is not related to the weights is about as far from them as zero is: a gradient or a
difference of norm q and correlation c with the weights, both in units of the weights'
norm, is at the distance sqrt(1 + q^2 - 2 q c), which is below 0.7 only if c > 0.71.
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
    """Return what is said about the ArrayRecord of a key; `AUTO` if nothing is."""
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
    """Return whether the arrays of some names are those received, trained.

    They are if they are close to them, all together. Where nothing but zeros was
    received, nothing can be said.

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
