"""Which arrays of a record go into its payload, and why the others travel whole."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from math import prod

import numpy as np
from flwr.app import Array, ArrayRecord

from flasc_flwr.core.finite import LIMIT
from flasc_flwr.flower.transport.form import is_numeric

_STATISTICS = {
    "running_mean",
    "running_var",
    "num_batches_tracked",
    "moving_mean",
    "moving_variance",
    "inv_freq",
    "position_ids",
}
"""Last parts of names: buffers that layers keep beside their weights."""

_LONGEST_STATISTIC = 4096
"""A longer array of one axis may be a flattened model."""

_FEWEST = 1024
"""Fewest entries of a record that is made sparse by default."""

NOT_FINITE = "not finite"
"""Why an array with NaN, infinity or numbers beyond `LIMIT` travels whole."""

_FEW_AXES = "of fewer than two axes"

_INDICES = "of whole numbers"

_EXACT = 256
"""Largest number up to which bfloat16 has every whole number."""

_NOISE = 1e-3
"""Most that a mean of equal whole numbers is off, by rounding."""


def why_whole(
    record: ArrayRecord, whole: Sequence[str] = (), sparse: Sequence[str] = ()
) -> dict[str, str]:
    """Return why each array of a record travels whole; "" if it does not.

    An array travels whole if it is not floating point, is not finite, or is named in
    `whole`. So do arrays with fewer than two axes, and a layer's statistics by name:
    they are small, and inexact ones do harm, as a model divides by its running
    variance. Arrays of whole numbers that rounding would change travel whole, too: the
    mean of integer arrays, such as indices, is floating point. If a record has no
    matrices, an array of one axis that is long enough to be a flattened model is in the
    payload. A record of a few hundred entries travels whole, as it could save less than
    the rest of its message takes.

    Parameters
    ----------
    record : ArrayRecord
        The arrays to be sent.
    whole : Sequence[str]
        Names of more arrays that travel whole, or shell patterns such as ``head.*``.
    sparse : Sequence[str]
        Names or patterns of arrays that are in the payload whatever their number of
        axes, their whole numbers, their name, and the size of the record.
    """
    reasons = {name: _why(name, a, whole, sparse) for name, a in record.items()}
    if "" not in reasons.values():
        reasons |= {
            name: ""
            for name, reason in reasons.items()
            if reason == _FEW_AXES and _is_flattened_model(record[name])
        }
    for name, reason in reasons.items():
        if not reason:
            reasons[name] = _why_exact(record[name], named=is_named(name, sparse))
    chosen = [name for name, reason in reasons.items() if not reason]
    if sum(prod(record[name].shape) for name in chosen) < _FEWEST:
        for name in chosen:
            if not is_named(name, sparse):
                reasons[name] = "of a record with few entries"
    return reasons


def in_payload(
    record: ArrayRecord, whole: Sequence[str] = (), sparse: Sequence[str] = ()
) -> tuple[int, ...]:
    """Return the indices of the arrays of a record that go into its payload.

    The arguments are those of :func:`why_whole`.
    """
    reasons = why_whole(record, whole, sparse).values()
    return tuple(index for index, reason in enumerate(reasons) if not reason)


def _why(name: str, array: Array, whole: Sequence[str], sparse: Sequence[str]) -> str:
    if not is_numeric(array):
        return "not floating point"
    if 0 in array.shape:
        return "empty"
    if is_named(name, whole):
        return "named in whole"
    if is_named(name, sparse):
        return ""
    if is_statistic(name):
        return "statistics of a layer"
    return _FEW_AXES if len(array.shape) < 2 else ""


def is_statistic(name: str) -> bool:
    """Return whether an array's name is that of a layer's statistics or constants."""
    return name.rpartition(".")[2] in _STATISTICS


def is_named(name: str, patterns: Iterable[str]) -> bool:
    """Return whether a name is one of some names, or fits one of some shell patterns.

    A name with brackets, such as ``['dense']['kernel']``, does not fit itself as a
    pattern.
    """
    return any(name == one or fnmatchcase(name, one) for one in patterns)


def _is_flattened_model(array: Array) -> bool:
    return len(array.shape) == 1 and array.shape[0] > _LONGEST_STATISTIC


def _why_exact(array: Array, *, named: bool) -> str:
    """Return why an array travels whole for its numbers' sake; "" if it does not.

    NaN and infinity (as in a causal mask) cannot be among the largest entries. Nor can
    numbers near the end of float32's range, which are masks, too. An array that the
    user has `named` as sparse may hold whole numbers.
    """
    values = array.numpy()
    # The limit is beyond the range of float16, whose comparison then warns.
    with np.errstate(invalid="ignore", over="ignore"):
        largest = np.abs(values).max(initial=0)
        if not largest < LIMIT:
            return NOT_FINITE
        if named or largest <= _EXACT:
            return ""
        return _INDICES if (np.abs(values - np.rint(values)) < _NOISE).all() else ""
