"""The shapes of a vector's tensors, turned so that the shorter axis comes first.

A factor of rank r is r components, rows of A and columns of B. Turned that way, both
are r rows, and entries of one column (one input, one output) lie below each other.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flasc_flwr.core.codec.bits import Reader, varint
from flasc_flwr.core.codec.errors import PayloadError
from flasc_flwr.core.layout import Layout

_ANY_TENSORS = 1 << 10
_ENTRIES_PER_TENSOR = 1 << 6
"""A vector may have 1024 tensors, and one more for each 64 entries: what is computed
for a tensor takes the memory of some dozens of entries."""

_BYTES_PER_TENSOR = 10


def most_tensors(size: int) -> int:
    """Return the most tensors that the shapes of a vector of length N may have."""
    return _ANY_TENSORS + size // _ENTRIES_PER_TENSOR


@dataclass(frozen=True, eq=False)
class Shapes:
    """The shapes of the tensors, in vector order; those without entries left out.

    Attributes
    ----------
    rows, widths : NDArray[np.int64], shape (T,)
        Each tensor as a matrix, with at most as many rows as columns.
    turned : NDArray[np.bool_], shape (T,)
        Whether the matrix lies in the vector column by column.
    """

    rows: NDArray[np.int64]
    widths: NDArray[np.int64]
    turned: NDArray[np.bool_]

    @classmethod
    def of(cls, size: int, layout: Layout | None) -> Shapes:
        """Return the shapes of a layout.

        The first axis of a tensor is one axis of its matrix, all others the other.
        Without a layout, or with too many tensors, the vector is a single row.
        """
        rows, widths = [], []
        for tensor in layout.tensors if layout else ():
            if tensor.size:
                first = tensor.shape[0] if len(tensor.shape) > 1 else 1
                rows.append(first)
                widths.append(tensor.size // first)
        if size and (layout is None or len(rows) > most_tensors(size)):
            rows, widths = [1], [size]
        return cls._turned(np.array(rows, np.int64), np.array(widths, np.int64))

    @classmethod
    def _turned(cls, rows: NDArray[np.int64], widths: NDArray[np.int64]) -> Shapes:
        turned = rows > widths
        return cls(np.minimum(rows, widths), np.maximum(rows, widths), turned)

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Number of entries of each tensor, shape (T,)."""
        return self.rows * self.widths

    def to_bytes(self) -> bytes:
        """Return the number of rows and columns of each tensor, as varints, deflated.

        Rows of the tensor as it lies in the vector, not turned.
        """
        first = np.where(self.turned, self.widths, self.rows).tolist()
        second = np.where(self.turned, self.rows, self.widths).tolist()
        text = b"".join(
            varint(axis) for pair in zip(first, second, strict=True) for axis in pair
        )
        deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
        return deflater.compress(text) + deflater.flush()

    @classmethod
    def from_bytes(cls, data: memoryview, size: int) -> Shapes:
        """Read what :meth:`to_bytes` wrote, of a vector of length N.

        Raises
        ------
        PayloadError
            If it is corrupt, there are too many tensors, or their sizes do not add up
            to N.
        """
        inflater = zlib.decompressobj(-15)
        most = most_tensors(size)
        try:
            # With one byte more, the end of the longest text is seen, too.
            text = inflater.decompress(data, _BYTES_PER_TENSOR * most + 1)
        except zlib.error as error:
            raise PayloadError(f"shapes: {error}") from None
        if not inflater.eof or inflater.unused_data:
            raise PayloadError(
                f"shapes: not one deflated text of at most {most} tensors"
            )
        reader = Reader(text)
        rows, widths, left = [], [], size
        while reader.left:
            rows.append(reader.varint("shapes"))
            widths.append(reader.varint("shapes"))
            entries = rows[-1] * widths[-1]
            if not 0 < entries <= left:
                raise PayloadError(
                    f"shapes: a tensor of {entries} entries, {left} are left"
                )
            left -= entries
        if left or len(rows) > most:
            raise PayloadError(
                f"shapes: {len(rows)} tensors, at most {most}, with {size - left} of "
                f"{size} entries"
            )
        return cls._turned(np.array(rows, np.int64), np.array(widths, np.int64))
