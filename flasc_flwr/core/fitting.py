"""Fitting: the largest selection whose payload is within a number of bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from math import floor

import numpy as np

from flasc_flwr.core.codec import encode, refines
from flasc_flwr.core.layout import Layout
from flasc_flwr.core.sparsity import SparseVector

Select = Callable[[float], SparseVector]
"""Selects entries of one vector at a density; a smaller density keeps some of them."""

Encode = Callable[[SparseVector], bytes]
"""Encodes a selection."""

_UNUSED = 1 / 128
"""A search ends when it leaves at most this fraction of the bytes unused."""

_FURTHER = 6
"""How many larger selections are tried where one more entry takes many bytes."""

_GUESS = 2.0
"""Bytes per entry that a search starts from, before it has measured any."""


class TooFewBytesError(ValueError):
    """Not even one entry fits; the message has the bytes that would be enough."""


@dataclass(frozen=True, eq=False)
class Fitted:
    """A selection and its payload.

    Attributes
    ----------
    density : float
        The density that it was selected at.
    sparse : SparseVector
        The selection.
    payload : bytes
        Its encoding.
    """

    density: float
    sparse: SparseVector
    payload: bytes


def fit(
    select: Select,
    encode: Encode,
    *,
    size: int,
    density: float,
    most: int,
    key: str,
    refine: Encode | None = None,
) -> Fitted:
    """Return the largest selection whose payload has at most `most` bytes.

    Interpolates between the exact lengths of payloads, and bisects where that makes
    little progress: mostly 3 to 6 payloads are encoded. The result is one of them, so
    it is not encoded again, and the same input gives the same bytes.

    Where even the smallest selection takes more, as it may where tensors or roles have
    a share of their own, the result is the largest of its entries that fit.

    Parameters
    ----------
    select : Callable[[float], SparseVector]
        Selects entries of the vector at a density.
    encode : Callable[[SparseVector], bytes]
        Encodes a selection.
    size : int
        N, the length of the vector.
    density : float
        The largest density, in (0, 1].
    most : int
        Most bytes of the payload; 0 is no limit.
    key : str
        The setting that `most` is from, for the error.
    refine : Callable[[SparseVector], bytes], optional
        Encodes a selection with as much precision as `most` bytes allow; used where
        everything is selected and bytes are left. By default they stay unused.

    Returns
    -------
    Fitted
        Either it leaves at most 1/128 of the bytes unused, or one more entry does not
        fit, or it has the largest density.

    Raises
    ------
    TooFewBytesError
        If not even one entry fits.
    """
    end = max(1, floor(size * density))

    def at(count: int) -> Fitted:
        # The half keeps a rounded product from falling below the count.
        share = density if count >= end else min((count + 0.5) / size, density)
        sparse = select(share)
        return Fitted(share, sparse, encode(sparse))

    if most == 0 or end <= most:  # it may fit as it is
        widest = at(end)
        if most == 0 or len(widest.payload) <= most:
            return _refined(widest, refine, most)
    least = at(1)
    if len(least.payload) > most:
        return _refined(_fewer(least, encode, most, key), refine, most)
    best, beyond = _search(at, least, end, most)
    if beyond is None or _is_enough(best, most):
        return _refined(best, refine, most)
    return _fill(best, beyond.sparse, encode, most)


def fit_payload(
    select: Select,
    values: str,
    *,
    layout: Layout | None,
    size: int,
    density: float,
    most: int,
    key: str,
    carry_layout: bool = False,
) -> Fitted:
    """Return the largest selection that fits as a payload; see :func:`fit`.

    In a value format that has a use for more bytes, those that are left are used.

    Parameters
    ----------
    select, size, density, most, key
        As for :func:`fit`.
    values, layout, carry_layout
        As for :func:`flasc_flwr.core.codec.encode`.
    """
    encoded = partial(encode, values=values, layout=layout, carry_layout=carry_layout)
    return fit(
        select,
        encoded,
        size=size,
        density=density,
        most=most,
        key=key,
        refine=partial(encoded, room=most) if refines(values) else None,
    )


def _search(
    at: Callable[[int], Fitted], least: Fitted, end: int, most: int
) -> tuple[Fitted, Fitted | None]:
    """Return the best that fits, and the next one, where that is known not to.

    `at` is asked for 2 to `end` entries; `least` has 1, and fits.
    """
    best, beyond = least, None
    low, high = 1, end + 1
    aim = most * (1 - _UNUSED / 2)
    slope, halve, stride = _GUESS, False, 1
    while high - low > 1 and not _is_enough(best, most):
        width, length = high - low, len(best.payload)
        if beyond:
            slope = max(len(beyond.payload) - length, 1) / width
        guess = (low + high) // 2 if halve else low + int((aim - length) / slope)
        count = min(max(guess, low + stride), high - 1)
        tried = at(count)
        if len(tried.payload) > most:
            high, beyond, stride = count, tried, 1
        else:
            grown = len(tried.payload) - length
            # Entries that take no bytes, such as zeros, say nothing of a slope.
            stride = 2 * (count - low) if grown <= 0 else 1
            slope = max(grown, 1) / (count - low)
            low, best = count, tried
        # An interpolation that excludes little is followed by a bisection.
        halve = beyond is not None and high - low > width / 2
    return _further(at, best, range(high + 1, end + 1), low, most), beyond


def _further(
    at: Callable[[int], Fitted], best: Fitted, counts: range, low: int, most: int
) -> Fitted:
    """Return the best of some larger selections that may fit all the same.

    With scales per group, one more entry moves others to the next group, and a payload
    may grow by some per cent or shrink.
    """
    length = len(best.payload)
    if not counts or length >= most * (1 - 2 * _UNUSED):
        return best
    expected = low * (most - length) / length  # entries that the unused bytes are worth
    for part in range(1, _FURTHER + 1):
        count = counts.start + int(expected * part / _FURTHER)
        if count in counts:
            tried = at(count)
            if length < len(tried.payload) <= most:
                best, length = tried, len(tried.payload)
    return best


def _fewer(least: Fitted, encode: Encode, most: int, key: str) -> Fitted:
    """Return as many entries as fit of the smallest selection, the largest first.

    Raises
    ------
    TooFewBytesError
        If none fits.
    """
    sparse = least.sparse
    if sparse.kept > 1:
        first = int(np.argmax(np.abs(sparse.values)))
        own = slice(first, first + 1)
        one = SparseVector(sparse.size, sparse.positions[own], sparse.values[own])
        least = Fitted(least.density, one, encode(one))
    if len(least.payload) > most:
        raise TooFewBytesError(
            f"{key} must be >= {len(least.payload)} for these entries, got {most}"
        )
    return _fill(least, sparse, encode, most)


def _fill(best: Fitted, beyond: SparseVector, encode: Encode, most: int) -> Fitted:
    """Add as many entries of the next selection as fit, the largest first.

    Where each tensor has its share, one step of the density adds many entries.
    """
    sparse = best.sparse
    more = np.setdiff1d(beyond.positions, sparse.positions, assume_unique=True)
    if len(more) < 2:
        return best
    dense = beyond.densify()
    order = more[np.argsort(-np.abs(dense[more]), kind="stable")]

    def at(count: int) -> Fitted:
        # With one entry fewer, as `_search` begins at 1.
        positions = np.union1d(sparse.positions, order[: count - 1])
        wider = SparseVector(sparse.size, positions, dense[positions])
        return Fitted(best.density, wider, encode(wider))

    return _search(at, best, len(more), most)[0]


def _refined(fitted: Fitted, refine: Encode | None, most: int) -> Fitted:
    """Return a selection with what is left of its bytes used for precision."""
    if refine is None or most == 0 or _is_enough(fitted, most):
        return fitted
    return replace(fitted, payload=refine(fitted.sparse))


def _is_enough(fitted: Fitted, most: int) -> bool:
    return len(fitted.payload) >= most * (1 - _UNUSED)
