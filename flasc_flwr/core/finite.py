"""What is not finite is never stepped along, and never kept."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flasc_flwr.core.layout import Layout, Vector, chunks
from flasc_flwr.core.printable import printable

LIMIT = 2.0**127
"""Half of float32's range: every value format can carry what is below."""


FINITE = "must hold finite numbers"
"""What an array of a client must do; the end of errors that say it does not."""


class NotFiniteError(ArithmeticError):
    """A result that is not finite, and which one."""


def require_finite(what: str, *arrays: NDArray[Any]) -> None:
    """Check that all entries of some arrays are below `LIMIT` in size.

    Parameters
    ----------
    what : str
        What they are, in the plural, for the error.
    arrays : NDArray
        Of any shape.

    Raises
    ------
    NotFiniteError
        If one is not, or is not a number.
    """
    for array in arrays:
        flat = array.reshape(-1)
        # In chunks, since temporaries would be as large as the adapter.
        if not all(np.all(np.abs(flat[c]) < LIMIT) for c in chunks(len(flat))):
            raise NotFiniteError(f"{what} are not finite")


def require_finite_tensors(layout: Layout, vector: Vector) -> None:
    """Check that all tensors of a vector in layout order are finite.

    Raises
    ------
    ValueError
        Names the first that is not, and none of its values.
    """
    if all(np.isfinite(vector[chunk]).all() for chunk in chunks(len(vector))):
        return
    for tensor, place in layout.slices():
        if not np.isfinite(vector[place]).all():
            raise ValueError(f"array {printable(tensor.name, 100)!r} {FINITE}")


def require_finite_product(what: str, b: NDArray[Any], a: NDArray[Any]) -> None:
    """Check that B (out, R), A (R, in) and their product are finite.

    The product is bounded, not computed: no entry exceeds the largest norm of a row of
    B times that of a column of A (Cauchy-Schwarz).

    Raises
    ------
    NotFiniteError
        If one is not.
    """
    require_finite(what, b, a)
    rows = np.linalg.norm(b.astype(np.float64), axis=1).max(initial=0.0)
    columns = np.linalg.norm(a.astype(np.float64), axis=0).max(initial=0.0)
    require_finite(what, np.asarray(rows * columns))
