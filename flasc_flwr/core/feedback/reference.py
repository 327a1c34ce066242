"""References: the vector that a device holds, which the server knows bit for bit.

Both sides compute it alike: they start at zero and add the decoded payloads one by one,
in float32, and round each result to the reference's grid. A reference counts from the
initial values that both sides know (the seeded factors where `init = "shared-seed"`,
else 0).
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from flasc_flwr.core.codec import PayloadError, decode
from flasc_flwr.core.feedback.grid import on_grid
from flasc_flwr.core.layout import Layout, Vector, chunks

VERSION_BYTES = 8
"""Length of a version: it has to tell histories apart, not to resist forgery."""


@dataclass(frozen=True, eq=False)
class Reference:
    """A reference and its version.

    Attributes
    ----------
    layout : Layout
        Layout of the device's adapter, of size n.
    vector : NDArray[np.float32], shape (n,)
        The reference.
    version : bytes
        Names the history that led to it: each payload's digest is chained to the
        version before it. Equal versions mean equal vectors.
    grid : str
        The numbers that it consists of: one of :data:`~.grid.GRIDS`.
    """

    layout: Layout
    vector: Vector
    version: bytes
    grid: str = "float32"

    @classmethod
    def origin(cls, layout: Layout, grid: str = "float32") -> Reference:
        """Return the reference before the first payload: zero."""
        version = _chained(b"", layout.fingerprint)
        if grid != "float32":
            version = _chained(version, grid.encode())
        return cls(layout, np.zeros(layout.size, np.float32), version, grid)

    def after(self, payloads: Sequence[bytes]) -> Reference:
        """Return the reference after some payloads: each is decoded and added.

        Raises
        ------
        PayloadError
            If one is corrupt, is of another layout, or leads to a value that is not
            finite.
        """
        vector, version = self.vector.copy(), self.version
        for payload in payloads:
            sparse = decode(
                payload, self.layout.size, fingerprint=self.layout.fingerprint
            )
            # In chunks, since a payload may have every entry.
            for chunk in chunks(sparse.kept):
                places = sparse.positions[chunk]
                with np.errstate(over="ignore"):
                    moved = vector[places] + sparse.values[chunk]
                moved = on_grid(moved, self.grid)
                if not np.isfinite(moved).all():
                    raise PayloadError("the reference is not finite after this payload")
                vector[places] = moved
            version = next_version(version, payload)
        return Reference(self.layout, vector, version, self.grid)

    def difference(self, target: Vector) -> Vector:
        """Return what separates the reference from a target, shape (n,).

        Zero where the grid has no number nearer to the target.
        """
        difference = np.subtract(target, self.vector, dtype=np.float32)
        if self.grid != "float32":
            difference[on_grid(target, self.grid) == self.vector] = 0
        return difference

    @cached_property
    def checksum(self) -> int:
        """Checksum of the values (CRC-32), by which each round's references compare."""
        return zlib.crc32(self.vector.astype("<f4", copy=False).data)

    @property
    def digest(self) -> str:
        """Digest of the values, by which the references of two sides compare."""
        return hashlib.sha256(self.vector.astype("<f4").tobytes()).hexdigest()


def next_version(version: bytes, payload: bytes) -> bytes:
    """Return the version of a reference after a payload."""
    return _chained(version, payload)


def _chained(version: bytes, more: bytes) -> bytes:
    return hashlib.sha256(version + more).digest()[:VERSION_BYTES]
