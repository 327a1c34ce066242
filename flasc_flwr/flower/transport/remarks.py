"""Warnings about arrays that do not travel as a user may expect."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from logging import WARNING

import numpy as np
from numpy.typing import NDArray

from flasc_flwr.core.layout import Layout
from flasc_flwr.core.printable import printable
from flasc_flwr.core.sparsity import SparseVector
from flasc_flwr.flower.compat import log

SOME_ROUNDS = 3
"""Rounds after which a warning names the arrays that starve."""

STARVING = 0.01
"""An array starves if all replies together had less than this part of its entries."""

_MOST_SHOWN = 5


class Remarks:
    """Logs each warning once.

    Parameters
    ----------
    quota : str
        Where entries compete to be sent.
    """

    def __init__(self, quota: str) -> None:
        self._quota = quota
        self._named: set[tuple[str, str]] = set()
        self._counts: dict[tuple[str, Layout], NDArray[np.int64]] = {}

    def name_not_finite(self, key: str, names: Iterable[str]) -> None:
        """Warn once which arrays travel whole because they are not finite."""
        new = [name for name in names if (key, name) not in self._named]
        self._named |= {(key, name) for name in new}
        if new:
            log(
                WARNING,
                "Record %r: %s travel whole: they hold NaN, infinity or numbers near "
                "the end of float32's range",
                printable(key, 50),
                _shown(new),
            )

    def say_untouched(self, key: str) -> None:
        """Warn once that replies of a key do not hold trained weights."""
        if (key, "") in self._named:
            return
        self._named.add((key, ""))
        log(
            WARNING,
            "Record %r of replies: untouched, as it does not look like the sent arrays "
            "after training. Set replies='weights' if it holds them, or "
            "replies='updates' if it is to be added to them",
            printable(key, 50),
        )

    def travelled(self, key: str, layout: Layout, update: SparseVector) -> None:
        """Count the entries of each array that a reply holds."""
        counts = layout.counts(update.positions)
        before = self._counts.get((key, layout), np.zeros_like(counts))
        self._counts[key, layout] = before + counts

    def after_round(self, round: int) -> None:
        """Warn of arrays that starve, after :data:`SOME_ROUNDS` rounds."""
        if round == SOME_ROUNDS and ("", "") not in self._named:
            self._named.add(("", ""))
            for key, layout in self._counts:
                self._warn_of_starving(key, layout)

    def _warn_of_starving(self, key: str, layout: Layout) -> None:
        """Warn of the arrays of a record of which hardly anything has travelled."""
        sizes = [tensor.size for tensor in layout.tensors]
        # If entries compete within their array, zero means that it does not change.
        least = 1 if self._quota == "tensor" else 0
        starving = [
            tensor.name
            for tensor, size, count in zip(
                layout.tensors, sizes, self._counts[key, layout], strict=True
            )
            if least <= count < STARVING * size
        ]
        if starving:
            log(
                WARNING,
                "Record %r: less than %d %% of %s has travelled in %d rounds; a larger "
                "upload_density%s sends more of it",
                printable(key, 50),
                round(100 * STARVING),
                _shown(starving),
                SOME_ROUNDS,
                "" if least else ", or quota 'tensor',",
            )


def _shown(names: Sequence[str]) -> str:
    """Return the first of some names from outside, as text."""
    first = ", ".join(repr(printable(name, 50)) for name in names[:_MOST_SHOWN])
    more = len(names) - _MOST_SHOWN
    return first + (f" and {more} more" if more > 0 else "")
