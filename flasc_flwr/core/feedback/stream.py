"""Streams: one reference for all devices with the same budget, made at the server.

Each step of a stream is one payload, encoded once for every device: the part of
(target - reference) that the compressor keeps. What it leaves out stays in that
difference, so that later steps send it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from functools import cached_property

import numpy as np

from flasc_flwr.core.codec import encode
from flasc_flwr.core.feedback.catching_up import CatchUp
from flasc_flwr.core.feedback.reference import Reference, next_version
from flasc_flwr.core.layout import Layout, Vector
from flasc_flwr.core.sparsity import SparseVector

Compress = Callable[[Vector], bytes]
"""Returns the payload that keeps the most important part of a vector."""


class Stream:
    """A reference, the last payloads that led to it, and the way there.

    Parameters
    ----------
    reference : Reference
        The newest reference.
    base : bytes, optional
        Version of the reference before the first of the payloads (default: the newest
        one).
    payloads : Sequence[bytes]
        The payloads from `base` to the newest reference.
    """

    def __init__(
        self,
        reference: Reference,
        base: bytes | None = None,
        payloads: Sequence[bytes] = (),
    ) -> None:
        self._reference = reference
        self._payloads = list(payloads)
        # The version before each payload, and the newest one at the end.
        self._versions = [reference.version if base is None else base]
        for payload in payloads:
            self._versions.append(next_version(self._versions[-1], payload))
        if self._versions[-1] != reference.version:
            raise ValueError("the payloads do not lead to the reference")

    @classmethod
    def begin(cls, layout: Layout, grid: str = "float32") -> Stream:
        """Return the stream of an adapter before its first payload."""
        return cls(Reference.origin(layout, grid))

    @property
    def reference(self) -> Reference:
        """The newest reference: what an up-to-date device holds."""
        return self._reference

    @property
    def base(self) -> bytes:
        """Version of the oldest reference that a device can catch up from."""
        return self._versions[0]

    @property
    def payloads(self) -> tuple[bytes, ...]:
        """The payloads from there to the newest reference."""
        return tuple(self._payloads)

    def copy(self) -> Stream:
        """Return a copy that may be moved: only what does not change is shared."""
        made = copy(self)
        made._payloads, made._versions = list(self._payloads), list(self._versions)
        return made

    def advance(self, target: Vector, compress: Compress) -> None:
        """Move the reference towards a target by one payload.

        Parameters
        ----------
        target : NDArray[np.float32], shape (n,)
            What the reference should become, counted from the same initial values.
        compress : Compress
            Encodes what is sent of the difference, without its layout.

        Raises
        ------
        PayloadError
            If the reference would not be finite; it stays as it was.
        """
        difference = self._reference.difference(target)
        if not difference.any():
            return
        payload = compress(difference)
        self._reference = self._reference.after([payload])
        self._payloads.append(payload)
        self._versions.append(self._reference.version)
        self.__dict__.pop("whole", None)
        self._forget_what_cannot_pay()

    @cached_property
    def whole(self) -> bytes:
        """The newest reference as one payload, exact and with its layout."""
        layout, vector = self._reference.layout, self._reference.vector
        # No entry is -0, which would not be sent: sums that start at +0 never are.
        kept = np.flatnonzero(vector).astype(np.int64, copy=False)
        sparse = SparseVector(layout.size, kept, vector[kept])
        grid = self._reference.grid
        return encode(sparse, grid, layout=layout, carry_layout=True)

    def catch_up(self, version: bytes | None) -> CatchUp:
        """Return the shortest way to the newest reference, in bytes.

        Parameters
        ----------
        version : bytes or None
            Version that the device holds as far as the server knows; None for nothing.
        """
        grid = self._reference.grid
        if version in self._versions:
            place = self._versions.index(version)
            payloads = tuple(self._payloads[place:])
            way = CatchUp(self._versions[place], None, payloads, grid)
        else:
            way = self._from_nothing()
        # The newest payload was encoded for everybody; nothing shorter is looked for,
        # as encoding the whole reference takes time.
        if len(way.payloads) <= 1:
            return way
        whole = CatchUp(self._reference.version, self.whole, (), grid)
        return way if way.size < whole.size else whole

    def _from_nothing(self) -> CatchUp:
        """Return the way from zero if all payloads are known, else the reference."""
        layout, grid = self._reference.layout, self._reference.grid
        if self.base != Reference.origin(layout, grid).version:
            return CatchUp(self._reference.version, self.whole, (), grid)
        nothing = SparseVector(
            layout.size, np.zeros(0, np.int64), np.zeros(0, np.float32)
        )
        start = encode(nothing, grid, layout=layout, carry_layout=True)
        return CatchUp(self.base, start, self.payloads, grid)

    def _forget_what_cannot_pay(self) -> None:
        """Drop the oldest payloads once the whole reference is sure to be shorter."""
        bytes_each = 4 if self._reference.grid == "float32" else 2
        longest = bytes_each * self._reference.layout.size + _AROUND
        total = sum(map(len, self._payloads))
        while len(self._payloads) > 1 and total > longest:
            total -= len(self._payloads.pop(0))
            self._versions.pop(0)


_AROUND = 4096
"""Bytes of a whole reference beside its values, at most about: header and layout."""
