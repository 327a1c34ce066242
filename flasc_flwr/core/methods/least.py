"""The fewest bytes that a payload of an adapter needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from math import ceil

import numpy as np

from flasc_flwr.core.codec import encode, most_bytes_of_one_entry
from flasc_flwr.core.layout import Layout, Vector
from flasc_flwr.core.methods.budget import Budget
from flasc_flwr.core.methods.scores import Scoring

_PLAIN = Scoring()


def require_bytes(
    budget: Budget,
    layout: Layout,
    values: str,
    scoring: Scoring = _PLAIN,
    *,
    lower: Sequence[Layout] = (),
    stated: Callable[[int], int] = int,
) -> None:
    """Check that a budget's bytes are enough for at least one entry each way.

    Parameters
    ----------
    budget : Budget
        The budget.
    layout : Layout
        Layout of the adapter, at the client's rank.
    values : str
        Value format.
    scoring : Scoring
        How the entries of downloads are selected.
    lower : Sequence[Layout]
        Layouts at lower ranks that the client may be given: most often they take fewer
        bytes, but deflated they may take more.
    stated : Callable[[int], int]
        Returns what the message says of the fewest: more than these where a budget's
        bytes are rounded down (default: these).

    Raises
    ------
    ValueError
        If they are not; the message has the fewest that are.
    """
    require_upload_bytes(
        budget.upload_bytes, layout, values, lower=lower, stated=stated
    )
    if budget.download_bytes:
        least = max(
            _least(each, values, scoring, carry_layout=True)
            for each in (layout, *lower)
        )
        _require("download-bytes", budget.download_bytes, least, stated)


def require_upload_bytes(
    most: int,
    layout: Layout,
    values: str,
    *,
    lower: Sequence[Layout] = (),
    stated: Callable[[int], int] = int,
) -> None:
    """Check that a number of bytes is enough for at least one entry of an update.

    The parameters are those of :func:`require_bytes`.

    Raises
    ------
    ValueError
        If it is not; the message has the fewest that are.
    """
    if most:
        least = max(
            _least(each, values, _PLAIN, carry_layout=False)
            for each in (layout, *lower)
        )
        _require("upload-bytes", most, least, stated)


def _require(key: str, most: int, least: int, stated: Callable[[int], int]) -> None:
    if most < least:
        raise ValueError(
            f"{key} must be >= {stated(least)} for this adapter, got {most}"
        )


@lru_cache(maxsize=64)
def _least(layout: Layout, values: str, scoring: Scoring, carry_layout: bool) -> int:
    """Return the fewest bytes that are enough for the smallest payload of any vector.

    It has one entry. More where a head is always kept, or each tensor has a share: then
    these vectors, and a margin, are harder to compress than most. Of one that takes
    more all the same, the largest entries are sent: see :func:`~.fitting.fit`.
    """
    if not layout.size:
        return 0
    one = most_bytes_of_one_entry(layout, values, carry_layout=carry_layout)
    if not scoring.whole_head and scoring.quota == "none":
        return one
    density = min(1.5 / layout.size, 1.0)
    lengths = [one]
    for vector in _incompressible(layout.size):
        sparse = scoring.largest(layout, vector, density, density)
        payload = encode(sparse, values, layout=layout, carry_layout=carry_layout)
        lengths.append(len(payload))
    of_shares = max(lengths) - one
    tensors = len(layout.tensors) if scoring.quota == "tensor" else 0
    return one + of_shares + 3 * tensors + ceil(_MARGIN * of_shares)


def _incompressible(size: int) -> Iterator[Vector]:
    """Yield vectors that some value format finds hard to compress.

    Of a normal distribution, of a uniform one, of few levels, and of magnitudes that
    are spread over the ranges of float16 and of float32; with zeros and without, as
    gaps between few zeros take more than what they save in a format of few bits.
    """
    generator = np.random.default_rng(0)
    signs = np.where(generator.random(size, np.float32) < _HALF, -_ONE, _ONE)
    for of_uniform in (
        lambda uniform: uniform,
        lambda uniform: 1 + np.floor(7 * uniform),
        lambda uniform: np.exp2(-_OCTAVES_OF_FLOAT16 * uniform),
        lambda uniform: np.exp2(_OCTAVES_OF_FLOAT32 * (uniform - _HALF)),
        lambda uniform: generator.standard_normal(size, np.float32),
    ):
        vector = signs * of_uniform(generator.random(size, np.float32))
        yield vector
        vector[generator.random(size, np.float32) < _ZEROS] = 0
        yield vector


_HALF, _ONE = np.float32(0.5), np.float32(1)
_OCTAVES_OF_FLOAT16 = np.float32(29)
_OCTAVES_OF_FLOAT32 = np.float32(250)
_ZEROS = 1 / 15
_MARGIN = 1 / 24
