"""Plain arrays from a client: whether they hold what they claim to hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.app import Array
from numpy.typing import NDArray

from flasc_flwr.core.finite import FINITE
from flasc_flwr.core.printable import printable
from flasc_flwr.flower.compat import SType

_NUMBERS = "biufc"


def check_readable(arrays: Mapping[str, Array], sent: Mapping[str, Array]) -> None:
    """Check that plain arrays hold what they claim to hold.

    Arrays of another serialization type than numpy's are not checked.

    Raises
    ------
    ValueError
        If one cannot be read, does not have the shape and dtype that it claims, or does
        not hold finite numbers though the array sent under its name does.
    """
    for name, array in arrays.items():
        if array.stype != SType.NUMPY:
            continue
        shown = printable(name, 100)
        try:
            values = array.numpy()
            claimed = array.shape, np.dtype(array.dtype)
            as_claimed = claimed == (values.shape, values.dtype)
        except Exception as error:
            reason = printable(error, 100)
            raise ValueError(f"array {shown!r} cannot be read: {reason}") from None
        if not as_claimed:
            raise ValueError(
                f"array {shown!r} does not have its claimed shape and dtype"
            )
        if name in sent and not _is_finite(values) and _is_finite(sent[name].numpy()):
            raise ValueError(f"array {shown!r} {FINITE}")


def _is_finite(values: NDArray[Any]) -> bool:
    return values.dtype.kind in _NUMBERS and bool(np.isfinite(values).all())
