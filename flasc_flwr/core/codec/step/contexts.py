"""Contexts: how likely an entry is not zero, given what was coded before it.

Updates of a factor have structure: inputs and outputs that matter are large in every
component, and some components are large throughout (dA is a sum of outer products). So
the entries are coded component by component, and each is put into one of 16 classes by
what is known of its component and by the levels of its column in the components before
it. Entries of one class share a code. The receiver computes the same classes,
in integers only, so that every machine agrees.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flasc_flwr.core.codec.step.shapes import Shapes
from flasc_flwr.core.layout import chunks
from flasc_flwr.core.sparsity import Positions

CLASSES = 16
MOST_FACTOR = 9
"""Factors of components are 2 ** (f - 6), f from 0 to this."""

PRIORS = 30
"""Priors of tensors are codes below this; 0 is a tensor without entries."""

_FACTOR_SHIFT = 6
_PRIOR_WEIGHT = 2
"""A tensor's prior counts as much as so many components."""

_UNIT = 12
"""Intensities are counted in 2**-12."""

_RATIO_BITS = 20
_HIGHEST_COUNTED = 4
"""Higher levels count as this: one large entry says less than many small ones."""


def prior_of(code: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the priors of codes: 0, then 2, 3, 4, 6, 8, 12, 16 and so on."""
    place = np.maximum(code - 1, 0)
    return np.where(code > 0, (2 + (place & 1)) << (place >> 1), 0)


def counted(levels: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return what levels add to the intensity of their column."""
    return np.minimum(levels, _HIGHEST_COUNTED)


class Contexts:
    """The classes of all entries, stage by stage: a stage is one row of every tensor.

    Parameters
    ----------
    shapes : Shapes
        The tensors.
    priors : NDArray[np.int64], shape (T,)
        Codes of the tensors' mean intensities; those of code 0 take part in no stage.
    factors : NDArray[np.int64]
        Codes of each row's intensity relative to its tensor, 0 to `MOST_FACTOR`: all
        rows of the first tensor that takes part, then those of the next.
    """

    def __init__(
        self,
        shapes: Shapes,
        priors: NDArray[np.int64],
        factors: NDArray[np.int64],
    ) -> None:
        active = np.flatnonzero(priors)
        rows = shapes.rows[active]
        # Longer tensors first: those that take part in a stage lie at the front.
        order = np.argsort(-rows, kind="stable")
        self._ratios = _ratios(rows, factors)
        self._first = _starts(rows)[order]
        self._rows = rows[order]
        # How many tensors take part in each stage, found once: with many tensors and
        # many stages, a search in each would take more time than all the rest.
        self._tensors = np.searchsorted(-self._rows, -np.arange(self.stages))
        active = active[order]
        self._unit = np.zeros(len(priors), np.int64)
        self._widths = shapes.widths[active]
        self._ends = np.cumsum(self._widths)
        self._begins = self._ends - self._widths
        self._unit[active] = self._begins
        turned = shapes.turned[active]
        self._start = _starts(shapes.sizes)[active]
        self._column_step = np.where(turned, self._rows, 1)
        self._row_step = np.where(turned, 1, self._widths)
        known = prior_of(priors[active]).astype(np.uint32)
        self._known = np.repeat(known, self._widths)

    @property
    def stages(self) -> int:
        """Number of stages."""
        return int(self._rows[0]) if len(self._rows) else 0

    def classes(self, stage: int) -> NDArray[np.uint8]:
        """Return the classes of a stage's entries, given all stages before it."""
        tensors = int(self._tensors[stage])
        ratios = self._ratios[self._first[:tensors] + stage]
        ends = self._ends[:tensors]
        classes = np.empty(int(ends[-1]), np.uint8)
        for run in chunks(len(classes)):
            counts = self._widths[:tensors]
            if len(classes) > run.stop - run.start:  # a part of the stage
                within = (ends - run.start).clip(0, run.stop - run.start)
                counts = np.diff(within, prepend=0)
            expected = np.repeat(ratios, counts)
            expected *= self._known[run][: len(expected)]
            expected >>= _RATIO_BITS
            np.minimum(expected, (1 << CLASSES - 1) - 1, out=expected)
            # An integer has as many bits as the exponent of its floating point form.
            exponents = expected.astype(np.float32).view(np.int32)
            exponents >>= 23
            exponents -= 126
            np.maximum(exponents, 0, out=exponents)
            classes[run] = exponents
        return classes

    def of_stage(self, places: Places) -> NDArray[np.int64]:
        """Return which entries of their stages some places are."""
        units: NDArray[np.int64] = self._unit[places.tensors] + places.columns
        return units

    def positions(self, stage: int, which: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return where some of a stage's entries lie in the vector."""
        tensors = np.searchsorted(self._ends, which, side="right")
        places: NDArray[np.int64] = which - self._begins[tensors]
        places *= self._column_step[tensors]
        places += self._start[tensors]
        places += stage * self._row_step[tensors]
        return places

    def learn(self, which: NDArray[np.int64], levels: NDArray[np.int32]) -> None:
        """Take note of the levels of some of a stage's entries; others are zero."""
        self._known[which] += (counted(levels) << _UNIT).astype(np.uint32)


def _ratios(rows: NDArray[np.int64], factors: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return for each row its factor over the sum of those before it and the prior's.

    In 2**-20; the prior counts as `_PRIOR_WEIGHT` rows of factor 1.
    """
    own = np.int64(1) << factors
    before = np.cumsum(own) - own
    before -= np.repeat(before[_starts(rows)], rows) if len(rows) else 0
    ratios: NDArray[np.int64] = own << _RATIO_BITS
    ratios //= before + (_PRIOR_WEIGHT << _FACTOR_SHIFT)
    return ratios


def _starts(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    starts: NDArray[np.int64] = np.cumsum(lengths) - lengths
    return starts


@dataclass(frozen=True, eq=False)
class Places:
    """Where entries of a vector lie in the matrices of its tensors.

    Attributes
    ----------
    tensors, rows, columns : NDArray[np.int64], shape (k,)
        The tensor of each entry, and its row and column in the turned matrix.
    """

    tensors: NDArray[np.int64]
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]

    @classmethod
    def of(cls, shapes: Shapes, positions: NDArray[np.int64]) -> Places:
        """Return the places of ascending positions."""
        edges = np.append(0, np.cumsum(shapes.sizes))
        counts = np.diff(np.searchsorted(positions, edges))
        tensors = np.repeat(np.arange(len(counts)), counts)
        within = positions - _starts(shapes.sizes)[tensors]
        turned = shapes.turned[tensors]
        first, second = np.divmod(
            within, np.where(turned, shapes.rows[tensors], shapes.widths[tensors])
        )
        return cls(
            tensors, np.where(turned, second, first), np.where(turned, first, second)
        )


def choose(
    shapes: Shapes, positions: Positions, levels: NDArray[np.int32]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the priors and the factors that fit some levels best, as codes.

    Parameters
    ----------
    shapes : Shapes
        The tensors.
    positions, levels
        The entries that are not zero, at least one.
    """
    firsts = _starts(shapes.rows)
    sums = np.zeros(int(shapes.rows.sum()))
    for chunk in chunks(len(positions)):
        places = Places.of(shapes, positions[chunk])
        rows = firsts[places.tensors] + places.rows
        sums += np.bincount(rows, counted(levels[chunk]), minlength=len(sums))
    of_tensor = np.add.reduceat(sums, firsts)
    mean = np.maximum(of_tensor, 1) / shapes.sizes
    # Twice the logarithm, as codes 1, 3, 5 are powers of two; 2 is half way to 3.
    codes = np.rint(2 * np.log2(_PRIOR_WEIGHT * mean) + 2 * _UNIT - 1)
    priors = np.where(of_tensor > 0, np.clip(codes, 1, PRIORS - 1), 0).astype(np.int64)
    expected = np.repeat(mean * shapes.widths, shapes.rows)
    ratio = (sums + 0.5 * np.repeat(mean, shapes.rows)) / expected
    factors = np.clip(np.rint(np.log2(ratio)) + _FACTOR_SHIFT, 0, MOST_FACTOR)
    return priors, factors[np.repeat(priors > 0, shapes.rows)].astype(np.int64)
